"""Train the starter model's transformer from nothing on the latents of drawings, and put the finished folder together."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from torch import Tensor, nn

from difffit_core.families.dit.network import set_class_table, tie_conditioning, untie_conditioning
from difffit_core.process.objectives import min_snr_weight, velocity_loss
from difffit_core.runtime.devices import training_autocast
from difffit_core.spec.job import ResolvedHyperparameters
from difffit_core.training.checkpoints import newest_first, step_name
from difffit_core.training.state import TrainingState, random_generator
from examples.emoji_dit.autoencoder import save_autoencoder
from examples.emoji_dit.drawings import Drawing, class_names, held_out_keys

MODEL_ID = "emoji-dit"
CLASS_ROWS = 1000  # what stock diffusers' DiTPipeline takes for "no class", which has to be the table's last row
MIN_SNR_GAMMA = 5.0
UNTOLD, SET_UNTOLD, THING_UNTOLD = 0.1, 0.25, 0.5  # how often a picture comes without its label, set, or exact name
AS_DRAWN = 0.3  # of a batch: drawings as they are; the rest are variants
HELD_OUT_DRAWS = 8  # of noise and timestep for each held-out drawing, always the same
LOG_SECONDS = 5.0
EVALUATE_SECONDS = 30.0


@dataclass(frozen=True)
class Latents:
    """What is trained on, on the device: the latents of every variant of each drawing, and what each drawing is."""

    latents: Tensor  # [K, N, C, H, W], half precision, scaled
    features: Tensor  # [K, N, 8]: what was done to each variant
    subgroups: Tensor  # [N]
    sets: Tensor  # [N]
    things: Tensor  # [N]
    train: Tensor  # [n], indices of drawings
    held_out: Tensor  # [m]


class Conditioning(nn.Module):
    """What the transformer is told beside the time: a sum of rows for subgroup, set and thing, and what was done to a variant.

    A sum, so that a set is one direction for all things: what a style is.
    """

    def __init__(self, subgroups: int, sets: int, things: int, features: int, width: int) -> None:
        super().__init__()
        self.subgroups, self.sets, self.things = (nn.Embedding(n, width) for n in (subgroups, sets, things))
        self.nothing = nn.Parameter(torch.empty(width))
        self.variant = nn.Linear(features, width, bias=False)
        for weight in (self.subgroups.weight, self.sets.weight, self.things.weight, self.nothing, self.variant.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(
        self,
        subgroups: Tensor,
        sets: Tensor,
        things: Tensor,
        features: Tensor,
        told: Tensor,
        set_told: Tensor,
        thing_told: Tensor,
    ) -> Tensor:
        """`[B, D]` of indices `[B]`, features `[B, 8]` and what of it is told, each 0 or 1, `[B, 1]`."""
        label = self.subgroups(subgroups) + set_told * self.sets(sets) + thing_told * self.things(things)
        whole: Tensor = told * label + (1 - told) * self.nothing + self.variant(features)
        return whole


class Network(nn.Module):
    """Transformer and conditioning together."""

    def __init__(self, transformer: DiTTransformer2DModel, conditioning: Conditioning) -> None:
        super().__init__()
        self.transformer, self.conditioning = transformer, conditioning

    def forward(self, noisy: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
        """The predicted velocity `[B, C, H, W]`."""
        time = self.transformer.transformer_blocks[0].norm1.emb
        embedded = time.timestep_embedder(time.time_proj(timesteps)) + conditioning
        velocity: Tensor = self.transformer(noisy, timestep=embedded, class_labels=None).sample
        return velocity


def random_transformer() -> DiTTransformer2DModel:
    """Width 256, 8 blocks, 4 heads, patch 2 on 16 x 16 x 4 latents, initialised as DiT is (Peebles & Xie 2023, adaLN-Zero)."""
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        num_layers=8,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=CLASS_ROWS,
    )
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    emb = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(emb.state_dict())
    tie_conditioning(model)
    for layer in (emb.timestep_embedder.linear_1, emb.timestep_embedder.linear_2):
        nn.init.normal_(layer.weight, std=0.02)
    for layer in (*(block.norm1.linear for block in model.transformer_blocks), model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
    return model


def schedule() -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    )


def hyperparameters(batch: int) -> ResolvedHyperparameters:
    """Of the run from nothing. The rate is constant, and the weights' average is what is kept: such a run can always go on."""
    return ResolvedHyperparameters(
        steps=1_000_000,  # the time limit ends it
        batch_size=batch,
        micro_batch_size=batch,
        gradient_checkpointing=False,
        base_precision="fp32",
        resolution=64,
        max_tokens=None,
        learning_rate=1e-3,
        lr_schedule="constant",
        warmup_steps=300,
        weight_decay=0.01,
        ema_decay=0.9995,
        label_dropout=UNTOLD,
        max_grad_norm=1.0,
        horizontal_flip=False,  # the variants have it
        sampler="uniform",
        validation_fraction=0.05,
        validate_every=1000,
        sample_every=1000,
        checkpoint_every=1000,
        guidance_scale=3.0,
        sample_steps=20,
    )


class Training:
    """The run from nothing: `train()` until a time limit, again and again; the state lies in `folder/checkpoints`."""

    def __init__(self, data: Latents, batch: int, folder: Path, device: torch.device, seed: int = 0) -> None:
        self._data, self._batch, self._folder, self._device, self._seed = data, batch, folder, device, seed
        torch.manual_seed(seed)
        subgroups, sets, things = (int(column.max()) + 1 for column in (data.subgroups, data.sets, data.things))
        transformer = random_transformer()
        width = transformer.inner_dim
        conditioning = Conditioning(subgroups, sets, things, data.features.shape[-1], width)
        self.network = Network(transformer, conditioning).to(device)
        set_class_table(transformer, torch.zeros(1, width, device=device))  # labels are told by `Conditioning`
        parameters = {name: value for name, value in self.network.named_parameters() if "embedding_table" not in name}
        self.state = TrainingState(parameters, hyperparameters(batch), seed)
        self._signal = schedule().alphas_cumprod.to(device)  # [T]
        if device.type == "cuda":
            for block in transformer.transformer_blocks:
                block.compile()

    def train(self, seconds: float) -> Iterator[dict[str, float]]:
        """Train for so many seconds, a step at least, and write a checkpoint; yields a line for the log now and then."""
        checkpoints = self._folder / "checkpoints"
        self.state.load_newest(checkpoints, lambda _, error: print(error.message))
        began = logged = evaluated = time.monotonic()

        def line(name: str, value: float) -> dict[str, float]:
            return {"step": self.state.step, name: round(value, 4), "seconds": round(time.monotonic() - began, 1)}

        try:
            while True:
                loss = self._step()
                now = time.monotonic()
                if now - began >= seconds:
                    break
                if now - logged >= LOG_SECONDS:
                    logged = now
                    yield line("loss", float(loss))
                if now - evaluated >= EVALUATE_SECONDS:
                    evaluated = now
                    yield line("held_out_loss", self.held_out_loss())
            yield line("loss", float(loss))
            yield line("held_out_loss", self.held_out_loss())
        finally:  # a time limit, Ctrl-C and a caller that wants no more end it alike
            self.state.save(checkpoints / step_name(self.state.step))
            for older in list(newest_first(checkpoints))[1:]:
                shutil.rmtree(older)

    def _step(self) -> Tensor:
        generator = torch.Generator(self._device)
        generator.manual_seed(random_generator(self._seed, "step", self.state.step).initial_seed())
        data, size = self._data, (self._batch,)

        def random() -> Tensor:
            return torch.rand(size, generator=generator, device=self._device)

        drawings = data.train[torch.randint(len(data.train), size, generator=generator, device=self._device)]
        variants = torch.randint(len(data.latents), size, generator=generator, device=self._device)
        variants = torch.where(random() < AS_DRAWN, 0, variants)
        told, set_told, thing_told = ((random() >= share)[:, None].float() for share in (UNTOLD, SET_UNTOLD, THING_UNTOLD))
        timesteps = torch.randint(len(self._signal), size, generator=generator, device=self._device)
        clean = data.latents[variants, drawings].float()
        noise = torch.randn(clean.shape, generator=generator, device=self._device)
        losses = self._losses(clean, noise, timesteps, drawings, data.features[variants, drawings], told, set_told, thing_told)
        loss = losses.mean()
        loss.backward()
        self.state.update()
        return loss.detach()

    def _losses(
        self,
        clean: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        drawings: Tensor,
        features: Tensor,
        told: Tensor,
        set_told: Tensor,
        thing_told: Tensor,
    ) -> Tensor:  # [B]
        data = self._data
        level = self._signal[timesteps][:, None, None, None]
        signal, spread = level.sqrt(), (1 - level).sqrt()
        with training_autocast(self._device):
            labels = (data.subgroups[drawings], data.sets[drawings], data.things[drawings])
            conditioning = self.network.conditioning(*labels, features, told, set_told, thing_told)
            velocity = self.network(signal * clean + spread * noise, timesteps, conditioning).float()
        snr = (level / (1 - level)).flatten()
        return min_snr_weight(snr, MIN_SNR_GAMMA, is_velocity=True) * velocity_loss(velocity, clean, noise, signal, spread)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The averaged weights' loss on the held-out drawings as they are, told subgroup and set, with fixed noise."""
        data = self._data
        drawings = data.held_out.repeat(HELD_OUT_DRAWS)
        generator = random_generator(0, "held out", 0)
        clean = data.latents[0, drawings].float()
        noise = torch.randn(clean.shape, generator=generator).to(self._device)
        timesteps = torch.randint(len(self._signal), (len(drawings),), generator=generator).to(self._device)
        one = torch.ones(len(drawings), 1, device=self._device)
        told = (one, one, 0 * one)
        rows = torch.arange(len(drawings), device=self._device).split(self._batch)
        with self.state.averaged(), torch.compiler.set_stance("force_eager"):
            losses = [
                self._losses(
                    clean[r], noise[r], timesteps[r], drawings[r], data.features[0, drawings[r]], *(flag[r] for flag in told)
                )
                for r in rows
            ]
        return float(torch.cat(losses).mean())

    def averaged_weights(self) -> dict[str, Tensor]:
        """The averaged weights of the network, in half precision on the CPU."""
        return {name: value.half().cpu() for name, value in self.state.ema.items()}


def label_drawings(drawings: list[Drawing]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices `[N]` of the subgroup, set and thing of each drawing, each in sorted order of names."""
    columns = ([d.subgroup for d in drawings], [d.set for d in drawings], [d.thing for d in drawings])
    subgroups, sets, things = (torch.tensor([sorted(set(column)).index(name) for name in column]) for column in columns)
    return subgroups, sets, things


def split_drawings(drawings: list[Drawing]) -> tuple[Tensor, Tensor]:
    """Indices of the drawings that are trained on, and of those whose code point is held out."""
    keys = held_out_keys(drawings)
    held_out = torch.tensor([drawing.key in keys for drawing in drawings])
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def class_table(weights: dict[str, Tensor], drawings: list[Drawing]) -> Tensor:
    """The table `[1001, D]` of `class_names`, filled up with the row for "no class"."""
    subgroups, sets, things = (weights[f"conditioning.{name}.weight"].float() for name in ("subgroups", "sets", "things"))
    of_subgroup, of_set, of_thing = label_drawings(drawings)
    rows: dict[str, Tensor] = {}
    for drawing, g, s, k in zip(drawings, of_subgroup, of_set, of_thing, strict=True):
        rows[drawing.thing] = subgroups[g] + things[k]
        rows[f"{drawing.subgroup}-{drawing.set}"] = subgroups[g] + sets[s]
    for drawing, g in zip(drawings, of_subgroup, strict=True):
        rows[drawing.subgroup] = subgroups[g]  # last: a subgroup's name wins over a thing's
    named = [rows[name] for name in class_names(drawings)]
    nothing = weights["conditioning.nothing"].float()
    return torch.stack([*named, *([nothing] * (CLASS_ROWS + 1 - len(named)))])


def write_base(folder: Path, weights: dict[str, Tensor], drawings: list[Drawing], autoencoder: AutoencoderKL) -> None:
    """Write the whole diffusers folder in half precision, with every tied tensor written out as stock diffusers reads it."""
    model = random_transformer()
    set_class_table(model, class_table(weights, drawings))
    own = {name.removeprefix("transformer."): value for name, value in weights.items() if name.startswith("transformer.")}
    wanted = {name for name, _ in model.named_parameters() if "embedding_table" not in name}
    if own.keys() != wanted:
        raise ValueError(f"These are not the transformer's weights: {sorted(own.keys() ^ wanted)}")
    model.load_state_dict(own, strict=False)  # the copies that tied blocks share are the same tensors
    untie_conditioning(model)
    model.half().save_pretrained(folder / "transformer")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").chmod(0o644)  # diffusers makes it private
    save_autoencoder(autoencoder, folder / "vae")
    schedule().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "DiTPipeline",
        "_diffusers_version": "0.35.0",
        "id2label": {str(i): name for i, name in enumerate(class_names(drawings))},
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
