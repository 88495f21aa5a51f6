# Office-Caltech-10, caltech to amazon.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='caltech'), target=dict(domain='amazon')))
val_dataloader = dict(dataset=dict(domain='amazon'))
test_dataloader = dict(dataset=dict(domain='amazon'))
