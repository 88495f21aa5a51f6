# 70 % of the handwritten digits of scikit-learn, 28 x 28, and low-quality versions of a tenth.
_base_ = 'hq_lq.py'

pack = [dict(type='mmext.Degrade', shrink=(2, 4)), dict(type='mmext.PackGANInputs')]
digits = dict(type='mmext.DigitsDataset', split='train', size=28, pipeline=pack)
index_file = 'data/ctf_gan/digits_hq70.json'
hq = dict(type='mmext.HQSubset', part='hq', hq_ratio=0.7, index_file=index_file, dataset=digits)
lq = dict(hq, part='lq', lq_ratio=0.1)
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    # 28 of high and 4 of low quality.
    sampler=dict(batch_size=32),
    dataset=dict(datasets=[hq, lq]),
)


def evaluate_on(split):
    return dict(
        batch_size=120,
        num_workers=0,
        dataset=dict(
            type='mmext.DigitsDataset',
            split=split,
            size=28,
            pipeline=[dict(type='mmext.PackGANInputs')],
        ),
    )


val_dataloader = evaluate_on('val')
test_dataloader = evaluate_on('test')
extractor = dict(
    type='classifier',
    config='mmext::ctf_gan/extractor_digits.py',
    checkpoint='work_dirs/extractor_digits/epoch_40.pth',
)
val_evaluator = dict(type='mmext.GenerativeMetrics', split='val', extractor=extractor)
test_evaluator = dict(type='mmext.GenerativeMetrics', split='test', extractor=extractor)
