# Handwritten digits (labelled) to rendered font digits, whose fonts differ from split to split.
_base_ = './conv-m-da_fontdigits2digits.py'

train_dataloader = dict(
    dataset=dict(
        source=dict(_delete_=True, split='train', pipeline=[_base_.pack], **_base_.handwritten),
        target=_base_.rendered,
    )
)
val_dataloader = dict(dataset=dict(**{**_base_.rendered, 'num_samples': 400}))
test_dataloader = dict(dataset=dict(**{**_base_.rendered, 'num_samples': 1000}))
