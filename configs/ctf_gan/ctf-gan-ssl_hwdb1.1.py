# CTF and self-supervision on 70 % of CASIA-HWDB1.1, which has all 3,755 characters of GB2312
# level 1. Put HWDB1.1trn_gnt/ and HWDB1.1tst_gnt/ into data/hwdb.
_base_ = 'ctf-gan-ssl_hwdb1.0.py'

index_file = 'data/ctf_gan/hwdb1.1_hq70.json'
source = dict(_base_.source, version='1.1')
hq = dict(_base_.hq, index_file=index_file, dataset=source)
lq = dict(_base_.lq, index_file=index_file, dataset=source)
train_dataloader = dict(dataset=dict(datasets=[hq, lq]))
val_dataloader = dict(dataset=dict(version='1.1'))
test_dataloader = dict(dataset=dict(version='1.1'))
extractor = dict(
    config='mmext::ctf_gan/extractor_hwdb1.1.py',
    checkpoint='work_dirs/extractor_hwdb1.1/epoch_8.pth',
)
val_evaluator = dict(extractor=extractor)
test_evaluator = dict(extractor=extractor)
model = dict(generator=dict(num_classes=3755), discriminator=dict(num_classes=3755))
