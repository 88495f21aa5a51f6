# Office-Caltech-10, otherwise as Office-31.
_base_ = './office.py'

num_classes = 10
model = dict(
    head=dict(num_classes=num_classes), da_losses=dict(label=dict(num_classes=num_classes))
)
office = dict(data_root='data/office_caltech_10', variant='caltech10')
train_dataloader = dict(dataset=dict(source=office, target=office))
val_dataloader = dict(dataset=office)
test_dataloader = dict(dataset=office)
