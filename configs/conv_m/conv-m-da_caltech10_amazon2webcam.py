# Office-Caltech-10, amazon to webcam.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='amazon'), target=dict(domain='webcam')))
val_dataloader = dict(dataset=dict(domain='webcam'))
test_dataloader = dict(dataset=dict(domain='webcam'))
