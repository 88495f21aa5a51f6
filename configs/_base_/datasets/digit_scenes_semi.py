# Digit scenes for two teacher-student pairs. A step takes 4 labelled images for each student, in
# orders of their own, and 8 unlabelled ones: a weak view for the teachers and an independent strong
# view for each student.
_base_ = ['./digit_scenes.py']

branches = ['sup_student1', 'sup_student2', 'unsup_teacher', 'unsup_student1', 'unsup_student2']
pack = dict(type='PackDetInputs', meta_keys=_base_.meta_keys)
weak = [_base_.resize, pack]
strong = [
    _base_.resize,
    dict(type='RandAugment', aug_space=_base_.colour, aug_num=1),
    dict(type='RandAugment', aug_space=_base_.geometry, aug_num=1),
    dict(type='RandomErasing', n_patches=(1, 3), ratio=(0, 0.2)),
    pack,
]


def labelled_for(branch):
    to_branch = dict(type='MultiBranch', branch_field=branches, **{branch: pack})
    return dict(_base_.labelled_dataset, pipeline=[*_base_.augment_labelled, to_branch])


unlabelled = dict(
    type=_base_.dataset_type,
    data_root=_base_.data_root,
    metainfo=_base_.metainfo,
    ann_file=_base_.unlabelled_ann,
    data_prefix=dict(img='train/'),
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadEmptyAnnotations', with_bbox=True),
        dict(
            type='MultiBranch',
            branch_field=branches,
            unsup_teacher=weak,
            unsup_student1=strong,
            unsup_student2=strong,
        ),
    ],
)
train_dataloader = dict(
    batch_size=16,
    sampler=dict(batch_size=16, source_ratio=[1, 1, 2]),
    dataset=dict(datasets=[labelled_for('sup_student1'), labelled_for('sup_student2'), unlabelled]),
)
