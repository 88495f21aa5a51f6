# Office-Caltech-10, dslr to webcam.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='dslr'), target=dict(domain='webcam')))
val_dataloader = dict(dataset=dict(domain='webcam'))
test_dataloader = dict(dataset=dict(domain='webcam'))
