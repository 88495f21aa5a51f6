# COCO, 10 % labelled: the views of MMDetection's semi-supervised configs, a strong view and
# labelled images of its own for each student. A GPU's step takes 1 labelled image for each student
# and 4 unlabelled ones. Files: tools/dataset_converters/split_coco.py
_base_ = ['mmdet::_base_/datasets/semi_coco_detection.py']

branches = ['sup_student1', 'sup_student2', 'unsup_teacher', 'unsup_student1', 'unsup_student2']


def labelled_for(branch):
    to_branch = dict(
        type='MultiBranch', branch_field=branches, **{branch: dict(type='PackDetInputs')}
    )
    return dict(
        _base_.labeled_dataset,
        ann_file='semi_anns/instances_train2017.1@10.json',
        pipeline=[*_base_.sup_pipeline[:-1], to_branch],
    )


unlabelled = dict(
    _base_.unlabeled_dataset,
    ann_file='semi_anns/instances_train2017.1@10-unlabeled.json',
    data_prefix=dict(img='train2017/'),
    pipeline=[
        *_base_.unsup_pipeline[:-1],
        dict(
            type='MultiBranch',
            branch_field=branches,
            unsup_teacher=_base_.weak_pipeline,
            unsup_student1=_base_.strong_pipeline,
            unsup_student2=_base_.strong_pipeline,
        ),
    ],
)
train_dataloader = dict(
    _delete_=True,
    batch_size=6,
    num_workers=6,
    persistent_workers=True,
    sampler=dict(type='mmext.MultiSourceSampler', batch_size=6, source_ratio=[1, 1, 4]),
    dataset=dict(
        type='mmext.SeededConcatDataset',
        datasets=[labelled_for('sup_student1'), labelled_for('sup_student2'), unlabelled],
    ),
)
