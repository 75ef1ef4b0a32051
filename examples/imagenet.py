"""Train ConvNeXt-T for every robustness on ImageNet, on several GPUs, each of which loads its own images.

torchrun --nproc-per-node 8 examples/imagenet.py FOLDER    # FOLDER/train/CLASS/*.JPEG and FOLDER/val/CLASS/*.JPEG
python examples/imagenet.py --smoke                        # seconds, on a few small images that it makes itself

Started again, it goes on where it was cut. What it would cost, on paper: docs/scale.md
"""

import argparse
import math
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from art_oat import Method, OATClassifier, OATTrainer, save_model, to_conditional
from art_oat.group import in_group
from art_oat.models.convnext import ConvNeXt
from art_oat.training import CSVLogger, ResumeFile, Validation, WarmupCosine, parameter_groups

EPS = 4 / 255  # Linf
MEAN_STD = tuple(np.array(of).reshape(3, 1, 1) for of in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class ImageFolder(Dataset):
    """Images in a folder per class, as bytes; in training cropped and mirrored, by draws of epoch and image alone."""

    def __init__(self, folder: Path, size: int, *, is_training: bool) -> None:
        self.classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.paths = sorted(folder.glob("*/*.[Jj][Pp]*[Gg]"))
        self.size, self.is_training, self.epoch = size, is_training, 0

    def set_epoch(self, epoch: int) -> None:  # called by fit
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, draws = self.paths[index], random.Random(f"{self.epoch} {index}")  # noqa: S311
        with Image.open(path) as file:
            image = file.convert("RGB")
        box = random_box(image.width, image.height, draws) if self.is_training else central_box(image)
        image = image.resize((self.size, self.size), Image.Resampling.BICUBIC, box)
        if self.is_training and draws.choice((True, False)):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), self.classes.index(path.parent.name)


def random_box(width: int, height: int, draws: random.Random) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of 8 to 100 % of an image, between 3:4 and 4:3, as is usual on ImageNet."""
    for _ in range(10):
        area = width * height * draws.uniform(0.08, 1)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = draws.randint(0, width - across), draws.randint(0, height - down)
            return left, top, left + across, top + down
    return 0, 0, width, height


def central_box(image: Image.Image) -> tuple[float, float, float, float]:
    side = 0.875 * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return left, top, left + side, top + side


def make_images(folder: Path) -> None:
    """Write a few images of three colors."""
    noise = np.random.default_rng(0)
    for part, nb_images in (("train", 12), ("val", 4)):
        for color in range(3):
            (folder / part / f"color{color}").mkdir(parents=True, exist_ok=True)
            for number in range(nb_images):
                pixels = noise.integers(0, 128, (20, 24, 3), dtype=np.uint8)
                pixels[..., color] += 100
                Image.fromarray(pixels).save(folder / part / f"color{color}" / f"{number}.jpeg")


def main(folder: Path, out: Path, *, nb_workers: int, is_smoke: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    size, batch_size, nb_epochs, nb_validations = (16, 8, 3, 12) if is_smoke else (224, 1024, 100, 1000)
    with in_group("auto") as group:
        if is_smoke:
            group.first(lambda: make_images(folder))
        train = ImageFolder(folder / "train", size, is_training=True)
        held_out = ImageFolder(folder / "val", size, is_training=False)
        chosen = np.random.default_rng(0).permutation(len(held_out))[:nb_validations]
        images, labels = zip(*(held_out[index] for index in chosen), strict=True)

        torch.manual_seed(0)
        stages = ((1, 1), (8, 16)) if is_smoke else ((3, 3, 9, 3), (96, 192, 384, 768))
        network = ConvNeXt(*stages, nb_classes=len(train.classes), patch_size=4, drop_path=0.1)
        shape = (3, size, size)
        model = to_conditional(network, input_shape=shape)  # the six published lams
        optimizer = optim.AdamW(parameter_groups(model, 0.05), lr=1e-3)
        criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        classifier = OATClassifier(
            model, criterion, shape, len(train.classes), optimizer, clip_values=(0, 1), preprocessing=MEAN_STD
        )
        # N-FGSM with logit pairing, and PGD-7 from where one step no longer finds what seven find
        method = Method.fast(eps=EPS, ema=0.9 if is_smoke else 0.9999, clip_grad_norm=1.0, precision="bf16")
        loader = DataLoader(
            train,
            batch_size // group.size,  # of each process: in all, the same
            sampler=DistributedSampler(train, group.size, group.rank),
            num_workers=nb_workers,
            pin_memory=torch.cuda.is_available(),
        )
        trainer = OATTrainer(classifier, method)
        trainer.fit(
            loader,
            validation_data=Validation(torch.stack(images).numpy(), np.array(labels), interval=1 if is_smoke else 5),
            nb_epochs=nb_epochs,
            scheduler=WarmupCosine(),
            callbacks=[CSVLogger(out / "training.csv"), ResumeFile(out / "state.pt", every_minutes=10)],
        )
        if group.is_first:
            save_model(model, out)  # to be measured by art_oat.evaluate, at any lam
            for point in trainer.history[-1].validation:
                print(f"lam {point.lam:g}: {point.clean:.1%} clean, {point.robust:.1%} under PGD-7")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="holds the images")
    parser.add_argument("--out", type=Path, default=Path("runs/imagenet"), help="folder for weights, log and state")
    parser.add_argument("--workers", type=int, default=12, help="processes that load images, for each that trains")
    parser.add_argument("--smoke", action="store_true", help="three epochs of a tiny network, on images made for it")
    arguments = parser.parse_args()
    if arguments.folder is None and not arguments.smoke:
        parser.error("name the folder that holds train and val, or take --smoke")
    main(
        arguments.folder or arguments.out / "images",
        arguments.out,
        nb_workers=0 if arguments.smoke else arguments.workers,
        is_smoke=arguments.smoke,
    )
