# The labelled tenth of FOD-A and the other photos for two teacher-student pairs: a step takes 4
# labelled images for each student and 4 unlabelled ones.
_base_ = ['./fod_a_labelled.py']

branches = ['sup_student1', 'sup_student2', 'unsup_teacher', 'unsup_student1', 'unsup_student2']
labelled_students = [
    dict(
        _base_.labelled_dataset,
        pipeline=[
            *_base_.augment_labelled,
            dict(type='MultiBranch', branch_field=branches, **{branch: _base_.pack}),
        ],
    )
    for branch in ('sup_student1', 'sup_student2')
]
unlabelled = dict(
    _base_.labelled_dataset,
    ann_file=_base_.unlabelled_ann,
    filter_cfg=dict(filter_empty_gt=False),
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(type='LoadEmptyAnnotations', with_bbox=True),
        dict(
            type='MultiBranch',
            branch_field=branches,
            unsup_teacher=_base_.weak,
            unsup_student1=_base_.strong,
            unsup_student2=_base_.strong,
        ),
    ],
)
train_dataloader = dict(
    batch_size=12,
    sampler=dict(batch_size=12, source_ratio=[1, 1, 1]),
    dataset=dict(datasets=[*labelled_students, unlabelled]),
)
