# MNIST scenes for two teacher-student pairs: 4 labelled images for each student, in orders of
# their own, and 8 unlabelled ones, a weak view for the teachers and a strong one for each student.
_base_ = ['./mnist_scenes.py']

labelled_students = [
    dict(
        _base_.labelled_dataset,
        pipeline=[
            *_base_.augment_labelled,
            dict(type='MultiBranch', branch_field=_base_.branches, **{branch: _base_.pack}),
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
            branch_field=_base_.branches,
            unsup_teacher=_base_.weak,
            unsup_student1=_base_.strong,
            unsup_student2=_base_.strong,
        ),
    ],
)
train_dataloader = dict(
    batch_size=16,
    sampler=dict(batch_size=16, source_ratio=[1, 1, 2]),
    dataset=dict(datasets=[*labelled_students, unlabelled]),
)
