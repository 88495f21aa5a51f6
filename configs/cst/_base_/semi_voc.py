# VOC 2007 trainval labelled, VOC 2012 trainval unlabelled, VOC 2007 test; views as for COCO.
_base_ = ['./semi_coco.py']

voc = dict(type='VOCDataset', data_root='data/VOCdevkit/')
voc07 = dict(
    ann_file='VOC2007/ImageSets/Main/trainval.txt', data_prefix=dict(sub_data_root='VOC2007/')
)
voc12 = dict(
    ann_file='VOC2012/ImageSets/Main/trainval.txt', data_prefix=dict(sub_data_root='VOC2012/')
)
sources = _base_.train_dataloader.dataset.datasets
labelled_filter = dict(filter_empty_gt=True, min_size=32, bbox_min_size=32)
train_dataloader = dict(
    dataset=dict(
        ignore_keys=['dataset_type'],
        datasets=[
            dict(**voc, **voc07, filter_cfg=labelled_filter, pipeline=sources[0].pipeline),
            dict(**voc, **voc07, filter_cfg=labelled_filter, pipeline=sources[1].pipeline),
            dict(
                **voc,
                **voc12,
                filter_cfg=dict(filter_empty_gt=False),
                pipeline=sources[2].pipeline,
            ),
        ],
    )
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        **voc,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(1333, 800), keep_ratio=True),
            # After the resizing: VOCMetric reads the true boxes in original pixels.
            dict(type='LoadAnnotations', with_bbox=True),
            _base_.test_pipeline[-1],
        ],
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='11points')
test_evaluator = val_evaluator
