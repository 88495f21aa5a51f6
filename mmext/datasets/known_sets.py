"""The table of data sets that configs and studies read, see :mod:`mmext.datasets.catalog`."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSet:
    """One row of the table.

    Args:
        title: What results call the set.
        summary: What it is, in one line.
        licence: Its licence, or what it may be used for.
        home: Where it is published.
        layout: Pattern below the folder of the set -> number of files. These files are the set:
            others beside them are neither copied nor part of its sum. Empty for a set that is made,
            which consists of all its files.
        md5: File below the folder -> md5 as its authors or torchvision publish it.
        sha256: Sum over all files, see :func:`digest`; the empty string where ``md5`` names every
            file, and for sets that are made.
        addresses: Where the files of ``downloads`` are published, tried in this order.
        downloads: Name of a published file -> its md5, or the empty string where the publisher
            packs it anew now and then; what is in it is checked in any case.
        archives: Names under which a folder may hold the whole set in one archive.
        places: Folders, below the one that ``--from`` names, in which other programs keep the set.
        debian: Folder of the Debian package that ships the set.
        make: ``'module:function'`` that makes the set of others: called with the root of all sets
            and the folder to write, which does not exist yet.
        needs: Names of the sets that ``make`` reads.
    """

    title: str
    summary: str
    licence: str
    home: str = ''
    layout: Mapping[str, int] = field(default_factory=dict)
    md5: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ''
    addresses: tuple[str, ...] = ()
    downloads: Mapping[str, str] = field(default_factory=dict)
    archives: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    debian: str = ''
    make: str = ''
    needs: tuple[str, ...] = ()


_IDX = (
    'train-images-idx3-ubyte',
    'train-labels-idx1-ubyte',
    't10k-images-idx3-ubyte',
    't10k-labels-idx1-ubyte',
)


def _idx(*sums: str) -> dict[str, str]:
    return dict(zip(_IDX, sums, strict=True))


def _packed_idx(*sums: str) -> dict[str, str]:
    return {f'{name}.gz': md5 for name, md5 in _idx(*sums).items()}


_CIFAR = 'cifar-10-batches-py'

#: Name, which is that of the folder -> what is known of the set.
SETS: dict[str, DataSet] = {
    'mnist': DataSet(
        title='MNIST',
        summary='60,000 + 10,000 handwritten digits, 28 px, grey, 10 classes',
        licence='public benchmark (LeCun, Cortes, Burges)',
        home='http://yann.lecun.com/exdb/mnist/',
        layout=dict.fromkeys(_IDX, 1),
        md5=_idx(
            '6bbc9ace898e44ae57da46a324031adb',
            'a25bea736e30d166cdddb491f175f624',
            '2646ac647ad5339dbf082846283269ea',
            '27ae3e4e09519cfbb04c329615203637',
        ),
        addresses=(
            'https://ossci-datasets.s3.amazonaws.com/mnist/',
            'http://yann.lecun.com/exdb/mnist/',
        ),
        downloads=_packed_idx(
            'f68b3c2dcbeaaa9fbdd348bbdeb94873',
            'd53e105ee54ea40749a09fcbcd1e9432',
            '9fb629c4189551a2d022fa330f9573f3',
            'ec29112dd5afa0611ce80d1b7f02629c',
        ),
        places=('MNIST/raw',),
    ),
    'fashion-mnist': DataSet(
        title='Fashion-MNIST',
        summary='60,000 + 10,000 garments, 28 px, grey, 10 classes',
        licence='MIT',
        home='https://github.com/zalandoresearch/fashion-mnist',
        layout=dict.fromkeys(_IDX, 1),
        md5=_idx(
            'f4a8712d7a061bf5bd6d2ca38dc4d50a',
            '9018921c3c673c538a1fc5bad174d6f9',
            '8181f5470baa50b63fa0f6fddb340f0a',
            '15d484375f8d13e6eb1aabb0c3f46965',
        ),
        addresses=('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',),
        downloads=_packed_idx(
            '8d4fb7e6c68d591d4c3dfef9ec88bf0d',
            '25c81989df183df01b3e8a0aad5dffbe',
            'bef4ecab320f06d8554ea6380940ec79',
            'bb300cfdad3c16e7a12a480ee83cd310',
        ),
        places=('FashionMNIST/raw',),
        debian='/usr/share/datasets/fashion-mnist',
    ),
    'cifar10': DataSet(
        title='CIFAR-10',
        summary='50,000 + 10,000 photos, 32 px, 10 classes, the official pixels',
        licence='public benchmark (Krizhevsky)',
        home='https://www.cs.toronto.edu/~kriz/cifar.html',
        layout={
            f'{_CIFAR}/data_batch_*': 5,
            f'{_CIFAR}/test_batch': 1,
            f'{_CIFAR}/batches.meta': 1,
        },
        md5={
            f'{_CIFAR}/data_batch_1': 'c99cafc152244af753f735de768cd75f',
            f'{_CIFAR}/data_batch_2': 'd4bba439e000b95fd0a9bffe97cbabec',
            f'{_CIFAR}/data_batch_3': '54ebc095f3ab1f0389bbae665268c751',
            f'{_CIFAR}/data_batch_4': '634d18415352ddfa80567beed471001a',
            f'{_CIFAR}/data_batch_5': '482c414d41f54cd18b22e5b47cb7c3cb',
            f'{_CIFAR}/test_batch': '40351d587109b95175f43aff81a1287e',
            f'{_CIFAR}/batches.meta': '5ff9c542aee3614f3951f8cda6e48888',
        },
        addresses=('https://www.cs.toronto.edu/~kriz/',),
        downloads={'cifar-10-python.tar.gz': 'c58f30108f718f92721af3b95e74349a'},
    ),
    'cifar10_jpeg': DataSet(
        title='CIFAR-10 (JPEG copies)',
        summary='CIFAR-10 as JPEG files of quality 75: not the official pixels',
        licence='public benchmark (Krizhevsky)',
        # The sum of the one packaging that our results are measured on.
        sha256='bad7b27d2c9885695a27874c33988db0b4e4b6bc0814b04c1707f67ef0d974b8',
        layout={'train/*/*.jpg': 50000, 'test/*/*.jpg': 10000},
        archives=('cifar10_jpeg.zip',),
    ),
    'bccd': DataSet(
        title='BCCD',
        summary='364 microscope images, 640x480, boxes of red cells, white cells, platelets',
        licence='MIT',
        home='https://github.com/Shenggan/BCCD_Dataset',
        # Of the repository's files.
        sha256='fe5af2fe74301321c9973499813e20e6f22aaa06ea9132564eecadbfb07dc548',
        layout={
            'BCCD/Annotations/*.xml': 364,
            'BCCD/ImageSets/Main/*.txt': 4,
            'BCCD/JPEGImages/*.jpg': 364,
        },
        addresses=('https://github.com/Shenggan/BCCD_Dataset/archive/refs/heads/',),
        downloads={'master.zip': ''},
        archives=('bccd.zip', 'BCCD_Dataset-master.zip'),
        places=('BCCD_Dataset', 'BCCD_Dataset-master'),
    ),
    'fod_a': DataSet(
        title='FOD-A (subset)',
        summary='3,000 + 400 + 1,200 photos of objects on runways, 224 px, boxes of 31 classes',
        licence='MIT',
        home='https://github.com/FOD-UNOmaha/FOD-data',
        # The sum of the one subset that our results are measured on.
        sha256='53640cfe7902175b9cc7ae5444f00701d7328aa088a546d7c0af88e04e9d7d9d',
        layout={
            'annotations/*.json': 3,
            'train/*.jpg': 3000,
            'val/*.jpg': 400,
            'test/*.jpg': 1200,
        },
        archives=('fod_a.zip',),
    ),
    'bsds500': DataSet(
        title='BSDS500',
        summary='200 + 100 + 200 natural photos, 481x321',
        licence='research use',
        home='https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/resources.html',
        # Of the images of the official archive; its segmentations are not read here.
        sha256='187354c986aad12c5b50b285be2082701cffb730a40cc2be22f3e33db894ce5a',
        layout={'images/train/*.jpg': 200, 'images/val/*.jpg': 100, 'images/test/*.jpg': 200},
        addresses=('http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/BSR/',),
        downloads={'BSR_bsds500.tgz': ''},
        archives=('bsds500_images.zip', 'bsds500.zip'),
        places=('BSR/BSDS500/data', 'BSDS500/data'),
    ),
    'photo_style_pairs': DataSet(
        title='photo style pairs',
        summary='59 pairs of content and style photos with masks and published results',
        licence='research use: evaluation only',
        home='https://github.com/luanfujun/deep-photo-styletransfer',
        # The sum of the one packaging that our results are measured on.
        sha256='7539ef132e77b971a61a4bad7e716b0dd87aa31ebd7ea0a184292f1acfc460a5',
        layout={
            f'{part}/*.*': 59
            for part in ('content', 'content_masks', 'style', 'style_masks', 'deep_photo_style')
        },
        archives=('photo_style_pairs.zip',),
    ),
    'digit_scenes': DataSet(
        title='digit scenes',
        summary='2,000 + 300 + 300 scenes, 80 px, of scikit-learn digits on scikit-image photos',
        licence='BSD-3-Clause (digits), CC0 or public domain (photos)',
        make='mmext.datasets.scenes:make',
    ),
    'large_digit_scenes': DataSet(
        title='large digit scenes',
        summary="2,000 + 300 + 300 scenes, 160 px, of scikit-learn's digits on photos of packages",
        licence='BSD-3-Clause (digits), CC0, CC-BY 2.0 and public domain (photos)',
        make='mmext.datasets.scenes:make',
    ),
    'mnist_scenes': DataSet(
        title='MNIST scenes',
        summary='4,000 + 300 + 600 scenes, 176 px, of MNIST digits on photos of BSDS500',
        licence='research use (BSDS500)',
        make='mmext.datasets.scenes:make',
        needs=('mnist', 'bsds500'),
    ),
    'fashion_scenes': DataSet(
        title='Fashion-MNIST scenes',
        summary='4,000 + 300 + 600 scenes, 176 px, of Fashion-MNIST garments on photos of BSDS500',
        licence='research use (BSDS500)',
        make='mmext.datasets.scenes:make',
        needs=('fashion-mnist', 'bsds500'),
    ),
    'mnist_m': DataSet(
        title='MNIST-M (regenerated)',
        summary='60,000 + 10,000 MNIST digits blended with photos of BSDS500, 32 px, colour',
        licence='research use (BSDS500)',
        home='https://jmlr.org/papers/v17/15-239.html',
        make='mmext.datasets.mnist_m:make',
        needs=('mnist', 'bsds500'),
    ),
    'colored_fashion_mnist': DataSet(
        title='coloured Fashion-MNIST',
        summary='60,000 + 10,000 Fashion-MNIST garments in colours on coloured grounds, 32 px',
        licence='MIT',
        make='mmext.datasets.colored_fashion_mnist:make',
        needs=('fashion-mnist',),
    ),
}
