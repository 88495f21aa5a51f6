# 200 letters and symbols, drawn with fonts of the DejaVu family (labelled) to the STIX family; some
# minutes on a CPU. At these weights the losses harmed in a trial, see projects/conv_m/README.md.
_base_ = './_base_/adaptation.py'

max_iters = 1500
pack = dict(type='PackInputs')
# All are in both families.
characters = (
    'ABCDEFGHIJKLMNOPQRSTUVWXYZ23456789abdefkmqrΞΣΦΨαβζλμνςωϞϠДЖЙЛЦЧЩЪЫЮьэяЂЉЊЋ#$%&'
    '(*+/<=>?@§©«±¶¿×‡€£‰←↑→↓↖↗↘↙↥↦↧↪↫↬↭↯↰↱↲↳↴↵↶↷↸↹↺↼↽↾↿⇄⇅⇆⇍⇏⇑⇖⇗⇘⇙⇚'
    '⇞⇦⇨⇩⇵⇶∂∄∅∉∊∍∓∔√∝∞∟∠∤∦∩∬∭∴∵∶∷∸∹∺∻∼∽≁≄≅≆≇≎≏≐≑≒≓≗≜≞≟≣≤≥≦≧≭≮≰≱≶≷'
)
glyphs = dict(type='mmext.GlyphDataset', classes=characters, size=28)
dejavu = [
    'DejaVuSans.ttf',
    'DejaVuSans-Bold.ttf',
    'DejaVuSans-Oblique.ttf',
    'DejaVuSansMono.ttf',
    'DejaVuSansMono-Bold.ttf',
    'DejaVuSerif.ttf',
    'DejaVuSerif-Bold.ttf',
    'DejaVuSerif-Italic.ttf',
]
stix = [
    'STIXGeneral.ttf',
    'STIXGeneralItalic.ttf',
    'STIXGeneralBol.ttf',
    'STIXGeneralBolIta.ttf',
]
model = dict(
    data_preprocessor=dict(mean=[38.0], std=[81.0]),
    head=dict(num_classes=200),
    da_losses=dict(label=dict(num_classes=200)),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='mmext.TwoDomainSampler', batch_size=64),
    dataset=dict(
        type='mmext.TwoDomainDataset',
        source=dict(split='train', fonts=dejavu, num_samples=10000, pipeline=[pack], **glyphs),
        target=dict(
            split='train',
            fonts=stix,
            num_samples=10000,
            pipeline=[dict(type='mmext.DropLabel'), pack],
            **glyphs,
        ),
    ),
)
# The target's fonts again, drawn otherwise.
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='val', fonts=stix, num_samples=1000, pipeline=[pack], **glyphs),
)
test_dataloader = dict(
    batch_size=200,
    num_workers=0,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', fonts=stix, num_samples=2000, pipeline=[pack], **glyphs),
)
train_cfg = dict(max_iters=max_iters, val_interval=250)
param_scheduler = dict(gamma=10 / max_iters)
default_hooks = dict(checkpoint=dict(interval=250))
