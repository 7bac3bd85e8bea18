"""Everyday and radiological words that the tiny tokenizers know beside those of the phantom world.

They keep free text short in tokens (a question from a real data set, a note of a user) and give the judge words that
are foreign to its world.
"""

GENERAL_WORDS = tuple(
    dict.fromkeys(
        """
        of or which is in on the a an are was were be been has have had does do did can could may will would
        should not and but if then than that these those it its he she they we you my your his her their what
        when who why how many much any some all both each other another more most less least very also only
        same different new old at by from with without for to into over under above below between near behind
        front back middle center central top bottom outer inner one two three four five six seven eight nine
        ten first second single multiple several few none size shape color dark bright white black gray grey
        large small big little long short wide round clear normal abnormal healthy enlarged increased
        decreased present absent visible found located contain contains show showing view plane axial coronal
        sagittal lateral frontal anterior posterior superior inferior medial bilateral unilateral midline
        picture photo scan scans radiograph film contrast weighted ultrasound tomography imaging resonance
        magnetic chest abdomen head neck pelvis spine rib ribs bone bones heart lungs kidney kidneys spleen
        stomach bowel colon bladder pancreas gallbladder aorta artery vein vessel vessels trachea diaphragm
        skull ventricle ventricles cerebellum cortex hemisphere lobe lobes tissue skin muscle fat air fluid
        gas water blood mass masses tumor tumour lesion lesions cancer edema effusion pneumonia pneumothorax
        infarct hemorrhage fracture opacity consolidation atelectasis cardiomegaly infection disease symptom
        patient treatment diagnosis finding findings evidence function system body human person man woman
        child hand foot chair table sitting standing dog tree house car music river window bread
        """.split()
    )
)
