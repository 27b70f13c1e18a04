"""`difffit generate`."""

from pathlib import Path
from typing import Annotated

import typer

from client.console import (
    connect,
    err,
    existing_folder,
    file_part,
    note,
    out,
    plain,
    print_json,
    problem_text,
)
from client.options import AsJson
from difffit_core.tasks.words import PICTURES_OF_PROMPTS, TEXTS


def generate(
    context: typer.Context,
    label: Annotated[list[str] | None, typer.Option(help="A class, by name or index; repeatable.")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="What to draw or to answer; repeatable.")] = None,
    adapter: Annotated[str | None, typer.Option(help="The adapter to use, ad_….")] = None,
    base: Annotated[str | None, typer.Option(help="Or a base model as it is.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Results of each label or prompt.")] = 1,
    output: Annotated[Path, typer.Option("--out", "-o", help="The folder to write PNG files to.")] = Path("generated"),
    steps: Annotated[int | None, typer.Option(help="Denoising steps; absent: the base's default.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; absent: the base's default.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Of pictures of prompts, such as 768x512; absent: the model's.")
    ] = None,
    negative: Annotated[str | None, typer.Option(help="What pictures of prompts should not be like.")] = None,
    condition: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The picture that a ControlNet's pictures follow.")
    ] = None,
    frame: Annotated[
        str | None, typer.Option(help="Of a text's prompt: alpaca, chat or none; absent: as the adapter was trained.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each text; absent: 256, or what has room.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Of a text; 0 takes the likeliest word each time.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of a text: draw among the likeliest words only.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same request and seed give the same result; absent: random.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="ddpm, ddim or dpmsolver++.")] = None,
    strength: Annotated[float | None, typer.Option(min=0, max=2, help="Of the adapter: 0 is the base; absent: 1.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make images of labels or prompts, or let a language model answer prompts, with an adapter or a base model."""
    if (adapter is None) == (base is None):
        raise typer.BadParameter("Give exactly one of --adapter and --base.")
    if bool(label) == bool(prompt):
        raise typer.BadParameter("Give --label or --prompt.")
    width, height = _sides(size)
    with connect(context) as client:
        with err.status("the server makes it"):
            generation = client.generate(
                [int(text) if text.isdecimal() else text for text in label or []] or None,
                prompts=prompt or None,
                condition_image=condition,
                adapter=adapter,
                base_model=base,
                n=n,
                steps=steps,
                guidance_scale=guidance,
                width=width,
                height=height,
                negative_prompt=negative,
                frame=frame,
                max_tokens=max_tokens,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
                scheduler=scheduler,
                adapter_strength=strength,
            )
        files = []
        for image in generation["images"]:
            path = existing_folder(output) / f"{file_part(image['label'])}-{image['seed']}.png"
            path.write_bytes(client.image_bytes(image["url"]))
            files.append(str(path))
    if as_json:
        print_json({**generation, "files": files})
    else:
        for text in generation["texts"]:
            out.print(f"[dim]{plain(text['prompt'])}[/]\n{plain(text['text'])}", soft_wrap=True)
        for file in files:
            out.print(plain(file), soft_wrap=True)
    if generation["error"] is not None:
        note(f"[red]failed[/] {problem_text(generation['error'])}")
        raise typer.Exit(1)
    results = TEXTS.results if generation["texts"] else PICTURES_OF_PROMPTS.results
    note(f"[dim]seed {generation['parameters']['seed']} gives the same {results} again[/]")


def _sides(size: str | None) -> tuple[int, int] | tuple[None, None]:
    """Width and height of 768x512."""
    if size is None:
        return None, None
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{size} is no width and height such as 768x512.", param_hint="--size")
    return int(width), int(height)
