# CST around MMDetection's Faster R-CNN R50-FPN.
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py']

detector = _base_.model
# A local file: configs/cst/README.md says where it comes from.
detector.backbone.init_cfg.checkpoint = 'data/pretrained/resnet50-0676ba61.pth'
model = dict(
    _delete_=True,
    type='mmext.CycleSelfTraining',
    detector=detector,
    consistency=dict(type='mmext.DistributionConsistency', kind='js'),
    semi_train_cfg=dict(score_thr=0.7, ignore_score_thr=0.5, unsup_weight=4.0),
    semi_test_cfg=dict(predict_on='teacher1'),
    data_preprocessor=dict(
        type='MultiBranchDataPreprocessor', data_preprocessor=detector.data_preprocessor
    ),
)
