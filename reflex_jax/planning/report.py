"""A plan as text."""

from __future__ import annotations

from reflex_jax.planning.device_memory import GIB
from reflex_jax.planning.frugal import said_of
from reflex_jax.planning.hlo_costs import COLLECTIVES
from reflex_jax.planning.plan import Plan, Remedy
from reflex_jax.planning.text_work import text_work


def describe_plan(plan: Plan) -> str:
    """The setting, memory by function, work by function, and the verdict."""
    chip, config, sizes = plan.topology.chip, plan.config, plan.run.sizes
    mesh = plan.run.shapes.mesh.shape
    lines = [
        f"{config.run.name} on {plan.topology.name}: {len(plan.topology.devices)} devices of {chip.name}, "
        f"{gib(chip.memory_bytes)} GiB and {chip.flops / 1e12:g} TFLOP/s each; mesh data={mesh['data']} "
        f"fsdp={mesh['fsdp']} tensor={mesh['tensor']}",
        f"{config.grpo.prompts_per_step} prompts x {config.grpo.group_size} completions of up to "
        f"{config.rollout.max_new_tokens} tokens; prompts of up to {sizes.prompt_tokens} tokens and {sizes.windows} windows of "
        f"image; {config.memory.microbatch_prompts or config.grpo.prompts_per_step} prompts at a time in the update",
    ]
    if plan.changes:
        changes = " ".join(plan.changes)
        lines.append(f"the configuration's own mesh or microbatch does not go on this machine; planned with {changes}")
    lines += ["", *_memory_table(plan)]
    if plan.functions and all(function.costs for function in plan.functions):
        lines += ["", *_work_table(plan)]
    return "\n".join(lines)


def describe_verdict(plan: Plan, *, microbatch: int = 0, remedy: Remedy | None = None) -> str:
    """One sentence: fits, or not and what would."""
    chip, name = plan.topology.chip, plan.topology.name
    if plan.fits:
        return f"fits: {name}; the largest microbatch that fits is {microbatch} prompts (memory.microbatch_prompts)."
    reason = f"{', '.join(plan.too_large())}: more than {gib(chip.memory_bytes)} GiB"
    if plan.resident > chip.memory_bytes:
        reason = f"weights, optimiser and frozen models alone need {gib(plan.resident)} of {gib(chip.memory_bytes)} GiB"
    verdict = f"does not fit: {name}: {reason}."
    if remedy is None:
        return verdict + (
            " Nor does it on the larger machines of this kind with the smallest microbatch: shorten data.max_prompt_tokens or "
            "rollout.max_new_tokens, or lower data.max_pixels."
        )
    machine = [] if remedy.plan.topology.name == name else [f"--topology {remedy.plan.topology.name}"]
    would = f"{verdict} What would: {' '.join([*machine, *remedy.overrides])}"
    return would + ("." if (said := said_of(remedy.overrides)) else "") + said


def _memory_table(plan: Plan) -> list[str]:
    columns = ("resident", "arguments", "temporary", "output", "in all", "estimated")
    rows = [f"{'GiB per device':16s}" + "".join(f"{column:>11s}" for column in columns)]
    if not plan.functions:
        rows.append(
            f"{'(between steps)':16s}{gib(plan.resident):>11s}{'':33s}{gib(plan.resident):>11s}{'':11s}  too large"
        )
    for f in plan.functions:
        phase, estimated = plan.estimate.of(f.name)
        numbers = (f.resident, f.arguments, f.temporary, f.output, f.total, estimated)
        verdict = "too large" if f.name in plan.too_large() else "fits"
        rows.append(f"{f.name:16s}" + "".join(f"{gib(number):>11s}" for number in numbers) + f"  {verdict}")
        if verdict == "too large":
            rows.append(f"{'':16s}  {phase}: {plan.estimate.terms(phase)}")
            rows += [f"{'':16s}  {array}" for array in f.largest]
    phase, _ = plan.estimate.of()
    rows.append(f"estimated, as a run does before step 0, for {phase}: {plan.estimate.terms(phase)}")
    if plan.estimate.on_host:
        rows.append(f"in the memory of its host each device's part of the state takes {gib(plan.estimate.on_host)} GiB")
    return rows


def gib(size: float) -> str:
    """Bytes as GiB."""
    return _short(size / GIB)


def _short(number: float) -> str:
    return f"{number:.2f}" if number >= 0.1 or number == 0 else f"{number:.2g}"


def _work_table(plan: Plan) -> list[str]:
    chip = plan.topology.chip
    kinds = [kind for kind in COLLECTIVES if any(f.known_costs.collectives.get(kind) for f in plan.functions)]
    columns = ["TFLOP", "GB moved", *(f"{kind} GB" for kind in kinds), "seconds at least"]
    widths = [max(10, len(column) + 2) for column in columns]
    rows = [f"{'per device':16s}" + "".join(f"{c:>{w}s}" for c, w in zip(columns, widths, strict=True)) + "  bound by"]
    whole = 0.0
    for f in plan.functions:
        bound, floor = max(f.seconds(chip).items(), key=lambda item: item[1])
        whole += floor
        sent = [f.known_costs.collectives.get(kind, 0.0) / 1e9 for kind in kinds]
        numbers = [f.known_costs.flops / 1e12, f.known_costs.bytes / 1e9, *sent, floor]
        cells = "".join(f"{_short(number):>{w}s}" for number, w in zip(numbers, widths, strict=True))
        rows.append(f"{f.name:16s}{cells}  {bound}")
    rows.append(f"a step takes at least {whole:.3g} s at the chip's peaks, with every completion at its longest")
    for work in text_work(plan.config, len({device.process_index for device in plan.topology.devices})):
        rows.append(
            f"beside it, on the first device of each process, at most: {work.texts} texts of {work.tokens} tokens through the "
            f"encoder {work.encoder}: {_short(work.flops / 1e12)} TFLOP, {_short(work.flops / chip.flops)} s"
        )
    unknown = [f"{f.name}: {loop}" for f in plan.functions for loop in f.known_costs.unknown_loops]
    if unknown:
        rows.append(f"loops whose length the program does not say are counted once: {'; '.join(unknown)}")
    return rows
