# Chinese characters of GB2312 in four fonts, 32 x 32: 70 % of 20 drawings each, and low-quality
# versions of a tenth. The fonts: apt-get install fonts-wqy-zenhei fonts-wqy-microhei
# fonts-arphic-ukai fonts-arphic-uming
_base_ = 'hq_lq.py'

num_classes = 1000
fonts = ['wqy-zenhei', 'wqy-microhei', 'ukai', 'uming']
pack = [dict(type='mmext.Degrade', shrink=(2, 4)), dict(type='mmext.PackGANInputs')]
glyphs = dict(
    type='mmext.GlyphDataset',
    split='train',
    alphabet='gb2312',
    classes=num_classes,
    fonts=fonts,
    size=32,
    num_samples=20 * num_classes,
    pipeline=pack,
)
hq = dict(type='mmext.HQSubset', part='hq', hq_ratio=0.7, dataset=glyphs)
lq = dict(hq, part='lq', lq_ratio=0.1)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    persistent_workers=True,
    # 56 of high and 8 of low quality.
    sampler=dict(batch_size=64),
    dataset=dict(datasets=[hq, lq]),
)


# New drawings of the same characters in the same fonts.
def evaluate_on(split):
    return dict(
        batch_size=250,
        num_workers=0,
        dataset=dict(
            type='mmext.GlyphDataset',
            split=split,
            alphabet='gb2312',
            classes=num_classes,
            fonts=fonts,
            size=32,
            num_samples=2 * num_classes,
            pipeline=[dict(type='mmext.PackGANInputs')],
        ),
    )


val_dataloader = evaluate_on('val')
test_dataloader = evaluate_on('test')
extractor = dict(
    type='classifier',
    config='mmext::ctf_gan/extractor_glyphs1000.py',
    checkpoint='work_dirs/extractor_glyphs1000/epoch_8.pth',
)
val_evaluator = dict(type='mmext.GenerativeMetrics', split='val', extractor=extractor)
test_evaluator = dict(type='mmext.GenerativeMetrics', split='test', extractor=extractor)
