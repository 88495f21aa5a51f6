# Office-Caltech-10, webcam to dslr.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='webcam'), target=dict(domain='dslr')))
val_dataloader = dict(dataset=dict(domain='dslr'))
test_dataloader = dict(dataset=dict(domain='dslr'))
