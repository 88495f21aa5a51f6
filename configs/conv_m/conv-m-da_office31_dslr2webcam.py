# Office-31, dslr to webcam.
_base_ = './_base_/office.py'

train_dataloader = dict(dataset=dict(source=dict(domain='dslr'), target=dict(domain='webcam')))
val_dataloader = dict(dataset=dict(domain='webcam'))
test_dataloader = dict(dataset=dict(domain='webcam'))
