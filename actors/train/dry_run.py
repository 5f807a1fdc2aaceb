"""``isogloss train --dry-run``: the files that a run would read; with ``--cluster FILE`` nodes and GPU memory."""

from __future__ import annotations

from pathlib import Path

from actors.observe.doctor import arithmetic_note
from actors.observe.screen import console, print_memory, print_nodes, print_plan, print_turns
from actors.plan.colocate import turns, usable_cores
from actors.plan.fertility import fertility_cure, fertility_line
from actors.plan.gpu_memory import check_memory
from actors.plan.placement import PlacementPlan
from configs.model_config import AUTO, stored_dtype
from configs.named_paths import named_paths
from configs.nodes import DescribedCluster, load_cluster
from configs.reading import is_file, is_folder
from configs.schema import Config
from rollout.anchors import load_anchors
from rollout.answer_files import left_out_lines, load_answers
from rollout.formats.left_out import LeftOut, shown_rows
from rollout.formats.places import place_of
from rollout.plan import load_untranslated
from rollout.preferences import Reading, read_preferences
from rollout.prompts import PromptSet
from rollout.records import text_of_turns
from rollout.word_lists import check_word_lists


def show(config: Config, cluster: Path | None) -> None:
    """The placement, which stage has which cores, and the inputs.

    Args:
        config: The run's.
        cluster: File that describes the nodes of a cluster, which the plan is checked against; None for this machine.

    Raises:
        UserError: Anything that a run would be refused for.
    """
    plan = PlacementPlan.from_config(config)
    print_plan(plan)
    print_turns(turns(config, usable_cores(config.cluster.num_cpus)))
    if cluster is not None:
        described = load_cluster(cluster)
        check_described(config, plan, described)
    check_readable(config, elsewhere=cluster is not None)


def check_readable(config: Config, elsewhere: bool) -> None:
    """Read and check all that a run reads before it starts, and show how much that is; a judge is not asked.

    Args:
        config: The run's.
        elsewhere: Whether the run is meant for other machines. What is not on this one is then named and not read.

    Raises:
        UserError: Names the file:line or field, and the cure.
    """
    absent = _absent(config) if elsewhere else []
    if config.model.dtype != AUTO:
        console.print(f"Arithmetic: {config.model.dtype} (model.dtype)")
    if not elsewhere and (note := arithmetic_note(config)) is not None:
        console.print(note)
    if absent:
        console.print(f"Not on this machine, so not read: {', '.join(absent)}")
        _read_present(config, absent)
        return
    if config.offline.path is not None:
        from actors.train.offline import check_offline  # imports torch

        pairs = check_offline(config, ask_judge=False)
        console.print(f"Inputs: {len(pairs.preferences)} pairs, {pairs.left_out} longer ones left out")
        _show_preferences(pairs.reading)
        return
    from actors.plan.preflight import check_inputs  # imports torch

    inputs = check_inputs(config, ask_judge=False)
    heldout = 0 if inputs.heldout is None else len(inputs.heldout.ids)
    console.print(
        f"Inputs: {len(inputs.prompts.ids)} prompts ({inputs.left_out} longer ones left out), {heldout} held-out ones, "
        f"in {', '.join(config.languages.codes)}, {len(inputs.anchors)} anchor pairs"
    )
    console.print(fertility_line(inputs.fertility))
    if (cure := fertility_cure(inputs.fertility, config.rollout)) is not None:
        console.print(cure)
    for line in inputs.notes:
        console.print(line, markup=False)
    _show_prompts("train", inputs.prompts)
    if inputs.heldout is not None:
        _show_prompts("heldout", inputs.heldout)


def _show_prompts(split: str, prompts: PromptSet) -> None:
    shown = [prompts.get(key, code) for key in prompts.ids[:3] for code in prompts.languages]
    rows = [(f"{one.id} ({one.language})", text_of_turns(one.turns)) for one in shown]
    _show(f"prompts.{split}", prompts.forms, rows, prompts.left_out)


def _show_preferences(reading: Reading) -> None:
    rows = [
        (f"{one.id} ({one.language})", f"{text_of_turns(one.prompt)} | chosen: {one.chosen} | rejected: {one.rejected}")
        for one in reading.rows[:3]
    ]
    _show("offline.path", reading.forms, rows, reading.left_out)


def _show(field: str, forms: tuple[str, ...], rows: list[tuple[str, str]], left_out: LeftOut) -> None:
    """The first three rows as they were understood, and what was left out."""
    lines = [f"{field}: form {', '.join(forms)}, read as", *(f"  {line}" for line in shown_rows(rows))]
    lines += [f"  left out: {line}" for line in left_out.lines()]
    # Texts of strangers: no markup, no colours.
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _absent(config: Config) -> list[str]:
    """Fields that name what is not on this machine."""
    dominant = (config.languages.dominant,)
    return [
        one.field
        for one in named_paths(config)
        # Of files by language one is enough: that another is missing is an error.
        if not any(_is_there(place_of(one.text, code, one.field)) for code in one.codes or dominant)
    ]


def _is_there(path: Path) -> bool:
    return is_file(path) or is_folder(path)


def _read_present(config: Config, absent: list[str]) -> None:
    if config.offline.path is not None:
        if "offline.path" not in absent:
            _show_preferences(read_preferences(config))
        return
    notes = list(config.rollout.unused)
    prompts: dict[str, PromptSet] = {}
    for split in ("train", "heldout"):
        if getattr(config.prompts, split) is not None and f"prompts.{split}" not in absent:
            prompts[split] = PromptSet.from_config(config, split)
            _show_prompts(split, prompts[split])
    if "anchor.path" not in absent:
        load_anchors(config)
    if "candidates.untranslated_ids" not in absent:
        load_untranslated(config)
    if "train" in prompts and not any(field.startswith("candidates.sources.") for field in absent):
        notes += left_out_lines(load_answers(config, prompts["train"]))
    if not any(field.partition(".files.")[0] in config.reward.words for field in absent):
        notes += check_word_lists(config)
    for line in notes:
        console.print(line, markup=False)


def check_described(config: Config, plan: PlacementPlan, cluster: DescribedCluster) -> None:
    """Show where everything goes and what it keeps on its GPUs.

    Raises:
        UserError: A process finds no node, or too little memory.
    """
    placed = print_nodes(plan, cluster.resources())
    source = cluster.model_config_of(config.model.policy)
    if source is not None and config.model.dtype == AUTO:
        found = config.model.model_copy(update={"dtype": stored_dtype(source)})
        config = config.model_copy(update={"model": found})
        console.print(f"Arithmetic: {config.model.dtype}, which the policy is stored in")
    if source is None:
        console.print(
            f"Memory is not checked: {config.model.policy} is not on this machine; name its config.json under `models` "
            "of the cluster's description"
        )
        return
    from actors.plan.model_size import model_size  # imports torch

    scored_by, reward_model = next((one.model for one in config.reward.models.values()), None), None
    if scored_by is not None and config.offline.path is None:
        reward_source = cluster.model_config_of(scored_by)
        if reward_source is None:
            console.print(
                f"The reward model's memory is not counted: {scored_by} is not on this machine; name its config.json "
                "under `models` of the cluster's description"
            )
        else:
            reward_model = model_size(reward_source, scores=True)
    rows = check_memory(config, model_size(source), plan, placed, cluster.gpu_memory(), reward_model=reward_model)
    if rows:
        print_memory(rows)
    elif plan.totals()["GPU"]:
        console.print("Memory is not checked: the description gives no gpu_memory_gb for the nodes with GPUs")
