"""A judge for tests, in a process of its own: it speaks the protocol of OpenAI, and misbehaves as the model's name asks.

`python -m tests.chat_server PORT [--certificate FILE --key FILE] [--log FILE] [--exit-after N]`. It prints its port. A
question is right where the texts between the marks `<correct-...>` and `<given-...>` are equal but for case. Without the
standard library it needs nothing, so it starts at once.
"""

import argparse
import asyncio
import json
import re
import ssl
import sys
from collections import Counter
from email.utils import formatdate

MODELS = (
    "judge", "judge-json", "judge-marks", "503-twice", "always-503", "429-once", "429-for-long", "hang", "html", "text",
    "not-json", "no-choices", "chatty", "chatty-once", "half-closed", "drip", "endless", "unauthorised", "redirect", "null",
    "thinks",
)  # fmt: skip
_TEXT = r"<{0}-[0-9a-f]+>(.*?)</{0}-[0-9a-f]+>"


class Judge:
    """Answers connections."""

    def __init__(self, log: str | None, exit_after: int):
        self.seen: Counter[str] = Counter()  # requests by model and prompt
        self.log, self.exit_after, self.count = log, exit_after, 0
        self.open = self.most_open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept open between requests."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                method, path, _ = head.decode().split("\r\n")[0].split()
                headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:-2])
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if not await self.answer(method, path, headers, body, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, method: str, path: str, headers: dict, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False: the connection ends."""
        if method == "GET":
            if path == "/silent/models":
                return await send(writer, 404, {"error": "not here"})
            return await send(writer, 200, {"object": "list", "data": [{"id": name} for name in MODELS]})
        asked = json.loads(body)
        self.count += 1
        if self.log:
            with open(self.log, "a") as log:
                log.write(json.dumps({"headers": headers, "body": asked}) + "\n")
        if self.count == self.exit_after:
            sys.stdout.flush()
            writer.transport.abort()
            import os

            os._exit(9)
        model, key = asked["model"], json.dumps(asked)
        self.seen[key] += 1
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        try:
            return await self.behave(model, self.seen[key], asked, headers, writer)
        finally:
            self.open -= 1

    async def behave(self, model: str, time: int, asked: dict, headers: dict, writer: asyncio.StreamWriter) -> bool:
        """What a model of this name does when it is asked the same for the n-th time."""
        secret = headers.get("authorization", "")
        if model == "always-503" or model == "503-twice" and time <= 2:
            return await send(writer, 503, {"error": f"overloaded, {secret}"})
        if model == "429-once" and time == 1:
            return await send(writer, 429, {"error": "slow down"}, "Retry-After: 1")
        if model == "429-for-long":
            return await send(writer, 429, {"error": "slow down"}, f"Retry-After: {formatdate(4e9, usegmt=True)}")
        if model == "hang":
            await asyncio.sleep(60)
        if model in ("html", "text", "not-json"):
            kind = {"html": "text/html", "text": "text/plain", "not-json": "application/json"}[model]
            return await send(writer, 200, "<html>Welcome to the proxy</html>", kind=kind)
        if model == "no-choices":
            return await send(writer, 200, {"choices": []})
        if model == "half-closed":
            writer.write(
                b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"choices": ['
            )
            await writer.drain()
            return False
        if model == "drip":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n")
            for _ in range(300):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.1)
        if model == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            while True:
                writer.write(b" " * 2**16)
                await writer.drain()
        if model == "unauthorised":
            return await send(writer, 401, {"error": f"who is {secret}?"})
        if model == "redirect":
            return await send(writer, 307, {}, "Location: http://127.0.0.1:1/elsewhere")
        return await send(writer, 200, {"choices": [{"message": {"role": "assistant", "content": say(model, asked)}}]})


def say(model: str, asked: dict) -> str | None:
    """The reply of a model that replies."""
    prompt = asked["messages"][0]["content"]
    correct = [text.lower() for text in re.findall(_TEXT.format("correct"), prompt, re.DOTALL)]
    given = re.search(_TEXT.format("given"), prompt, re.DOTALL)
    is_right = given is not None and given.group(1).lower() in correct
    word = "YES" if is_right else "NO"
    if model == "judge-json":
        return json.dumps({"score": 1 if is_right else 0.25})
    if model == "judge-marks":  # of a file of predictions: right where the correct text stands in the predicted one
        predicted = re.search(_TEXT.format("predicted"), prompt, re.DOTALL)
        mark = int(predicted is not None and any(text in predicted.group(1).lower() for text in correct))
        return json.dumps({"score": mark, "evaluation": "So be it.", "reasoning_score": 1, "prediction_score": mark})
    if model == "chatty" or model == "chatty-once" and len(asked["messages"]) == 1:
        return f"{word}, because the words are what they are."
    if model == "thinks":
        return f"<think>They could say NO or YES.</think>\n\n{word}."
    return None if model == "null" else word


async def send(
    writer: asyncio.StreamWriter, status: int, content: object, *headers: str, kind="application/json"
) -> bool:
    """A whole answer."""
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    lines = [f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    await writer.drain()
    return True


async def main() -> None:
    """Listens until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    parser.add_argument("--log")
    parser.add_argument("--exit-after", type=int, default=0)
    options = parser.parse_args()
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    judge = Judge(options.log, options.exit_after)
    server = await asyncio.start_server(judge.serve, "127.0.0.1", options.port, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
