"""``mixer-plugin``: the commands of the package."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mixer_plugin import __version__, list_adapters
from mixer_plugin.errors import MixERError, MixERValueError

INTERRUPTED = 130


def _table3(options: argparse.Namespace) -> int:
    from mixer_plugin.benchmarks.table3 import run_file

    try:
        tables = run_file(
            options.config,
            options.out,
            resume=options.resume,
            paper=options.paper,
            weights=options.weights,
        )
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. Finished cells and checkpoints are in {options.out}; the same command "
            "with --resume continues with the same numbers.",
            file=sys.stderr,
        )
        return INTERRUPTED
    if tables:  # of several processes, the first one has them
        print(tables)
        print(f"Tables, pictures and run card: {options.out}", file=sys.stderr)
    return 0


def _report(options: argparse.Namespace) -> int:
    from mixer_plugin.benchmarks.table3 import configured, report

    config = configured(options.config, options.paper, options.weights)
    print(report(config, Path(options.out), options.format))
    return 0


def _extract(options: argparse.Namespace) -> int:
    from mixer_plugin.benchmarks.extracting import extract_file

    features = extract_file(
        options.checkpoint,
        options.root,
        options.out,
        split=options.split,
        layout=options.layout,
        trial=options.trial,
        device=options.device,
        batch=options.batch,
        workers=options.workers,
    )
    if features is not None:
        print(f"{options.out}: {features}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from mixer_plugin.evaluation.command import run_evaluate

    return run_evaluate(options)


def _probe(options: argparse.Namespace) -> int:
    from mixer_plugin.probing.command import run_probe

    return run_probe(options)


def _search(options: argparse.Namespace) -> int:
    from mixer_plugin.search.command import run_search

    return run_search(options)


def _synth(options: argparse.Namespace) -> int:
    from mixer_plugin.data.synthetic import SyntheticConfig, layout_config, write_layout

    values = {
        item.name: getattr(options, item.name)
        for item in dataclasses.fields(SyntheticConfig)
        if getattr(options, item.name) is not None
    }
    config = layout_config(options.layout, **values)
    _folder(Path(options.root).parent)
    try:
        written = write_layout(
            options.root, config, options.layout, workers=options.workers, progress=_images_written
        )
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. What is finished is in {Path(options.root)}.partial; the same command "
            "continues there.",
            file=sys.stderr,
        )
        return INTERRUPTED
    state = "holds the same set already, reused" if written.reused else "written"
    if written.continued:
        state += f", {written.continued} of them by an interrupted run"
    print(f"{written.root}: {written.images} images, {state}")
    return 0


def _images_written(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total} images", end=end, file=sys.stderr, flush=True)
    else:
        print(json.dumps({"event": "written", "images": done, "of": total}), file=sys.stderr)


def _doctor(options: argparse.Namespace) -> int:
    from mixer_plugin.data.doctor import diagnose

    findings = diagnose(
        options.root, options.layout, images=not options.no_images, workers=options.workers
    )
    for finding in findings:
        print(
            f"{finding.severity:8} {finding.what}"
            + (f"\n         {finding.fix}" if finding.fix else "")
        )
    errors = sum(finding.severity == "error" for finding in findings)
    print(f"{errors} errors, {sum(f.severity == 'warning' for f in findings)} warnings")
    return 1 if errors else 0


def _check(options: argparse.Namespace) -> int:
    from mixer_plugin.checking import run_check

    return run_check(
        options.adapter, options.checkout, dataset=options.dataset, build=options.build
    )


def _list(options: argparse.Namespace) -> int:
    from mixer_plugin.baselines import list_baselines

    print("adapters: ", ", ".join(list_adapters()))
    print("baselines:", ", ".join(list_baselines()))
    return 0


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MixERValueError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    return folder


def parser() -> argparse.ArgumentParser:
    """The argument parser, with a sub-command per job."""
    root = argparse.ArgumentParser(prog="mixer-plugin", description=__doc__)
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    table3 = add("table3", _table3, "train and compare baseline, (f)+MixER and e2e+MixER")
    table3.add_argument("--resume", action="store_true", help="continue what --out holds")
    report = add("report", _report, "print the tables of what a table3 run has finished so far")
    report.add_argument("--format", default="md", choices=("md", "tex", "csv", "json"))
    for command in (table3, report):
        command.add_argument("--config", default="demo", help="YAML file, or a packaged name")
        command.add_argument("--out", default="results/table3", help="result folder")
        command.add_argument(
            "--paper", action="store_true", help="add e2e as eq. 16 reads literally"
        )
        command.add_argument(
            "--weights", help="of the trunk: imagenet (torchvision's), a file, or none (random)"
        )

    extract = add("extract", _extract, "extract features of a data set with a network of table3")
    extract.epilog = (
        "Several processes share the images: torchrun --nproc-per-node N -m mixer_plugin.cli "
        "extract … writes the same file."
    )
    extract.add_argument("checkpoint", help="cells/JOB/CELL.pt of a result folder of table3")
    extract.add_argument("root", help="folder of a data set")
    extract.add_argument("--out", required=True, help="FeatureSet file (.npz) to write")
    extract.add_argument("--split", default="test", help="train or test (default); SYSU also val")
    extract.add_argument("--layout", help="default: recognised by what is there")
    extract.add_argument("--trial", type=int, help="RegDB's split, 1 to 10 (default 1)")
    extract.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    extract.add_argument("--batch", type=int, default=128, help="images at once (default 128)")
    extract.add_argument("--workers", type=int, default=0, help="processes that read images")

    evaluate = add("evaluate", _evaluate, "evaluate stored features in mixed galleries")
    evaluate.epilog = (
        "Without --rules and --calibration, the table holds the controls that make a mixed gallery "
        "comparable. Several processes: torchrun --nproc-per-node N -m mixer_plugin.cli evaluate … "
        "gives the same numbers. Exit code: 0; 2: wrong input; 4: --audit found a difference."
    )
    evaluate.add_argument(
        "features",
        nargs="+",
        help="FeatureSet (.npz), SYSU-MM01 .mat features (a file or folder) or .npy with --labels",
    )
    evaluate.add_argument("--labels", help="CSV with columns id, camera, modality[, path]")
    evaluate.add_argument("--related", help=".npy of the related features")
    evaluate.add_argument("--related-mat", help=".mat (file or folder) of the related features")
    evaluate.add_argument(
        "--protocol",
        default="full",
        help="e.g. full, sysu/all/single, llcm/sampled, regdb/3; regdb: input i is of split i, "
        "and their mean comes last",
    )
    evaluate.add_argument("--settings", help="comma-separated; default: all that the protocol has")
    evaluate.add_argument(
        "--rules",
        help="comma-separated; default: erased and, with related features, mixer,mixer-shuffled; "
        "others: mixer-calibrated, erased-calibrated, related, dev-sum, dev-switch",
    )
    evaluate.add_argument(
        "--calibration",
        help="comma-separated among none, znorm, center; default: all, with --rerank none",
    )
    evaluate.add_argument(
        "--query",
        choices=("infrared", "visible", "both"),
        help="default: what the protocol says (infrared; market1501: visible)",
    )
    evaluate.add_argument("--trials", type=int, help="number of gallery draws")
    evaluate.add_argument("--permutation", help="path of rand_perm_cam.mat")
    evaluate.add_argument("--cmc", help="dedup or standard; default: what the protocol says")
    evaluate.add_argument(
        "--colocated-mixed", action="store_true", help="SYSU-MM01's cameras 2 and 3 are one camera"
    )
    evaluate.add_argument(
        "--same-camera",
        help="what cross and uni remove of the query's camera: any-id, same-id or keep; default: "
        "what the protocol says",
    )
    evaluate.add_argument(
        "--no-positive", default="drop", help="queries without a positive: drop (default) or error"
    )
    evaluate.add_argument("--rerank", help="k-reciprocal, k-reciprocal@queries, aim or bridge")
    evaluate.add_argument("--device", help="e.g. cuda; default: the CPU")
    evaluate.add_argument(
        "--shard",
        default="auto",
        help="what the processes of torchrun divide: rows (queries), gallery, or auto (default)",
    )
    evaluate.add_argument(
        "--fair", action="store_true", help="say for each setting whether a gain beats its controls"
    )
    evaluate.add_argument(
        "--diagnostics",
        action="store_true",
        help="modality bias; results by modality and camera, in growing galleries, under wrong "
        "modality labels",
    )
    evaluate.add_argument(
        "--against", metavar="OTHER", help="features of the same images to compare with, paired"
    )
    evaluate.add_argument(
        "--compare-rule",
        metavar="RULE[,RULE]",
        help="rule of both, or of this one and OTHER; default: mixer if both have related "
        "features, else erased",
    )
    evaluate.add_argument(
        "--audit", type=int, nargs="?", const=64, metavar="N",
        help="rank N queries (default 64) again one by one from the definitions and compare",
    )  # fmt: skip
    evaluate.add_argument(
        "--format", default="md", choices=("md", "csv", "tex", "json"), help="what is printed"
    )
    evaluate.add_argument(
        "--out", help="folder for the table in all four forms, and what else is printed"
    )

    _add_probe_options(
        add("probe", _probe, "what frozen features hold: modality, identity, factors")
    )

    search = add("search", _search, "search a gallery of both modalities (needs FAISS)")
    search.add_argument("gallery", help="FeatureSet file (.npz), or an index that --save wrote")
    search.add_argument("queries", help="FeatureSet file (.npz)")
    search.add_argument("-k", type=int, default=10, help="hits per query (default 10)")
    search.add_argument("--rule", help="default: mixer, or erased without related features")
    search.add_argument("--factory", help="FAISS factory string, e.g. IVF64,Flat (default: Flat)")
    search.add_argument("--parameters", help="FAISS search parameters, e.g. nprobe=16")
    search.add_argument("--calibration", help="center (default: none)")
    search.add_argument("--setting", default="mix", help="e.g. mix-cam, cross (default: mix)")
    search.add_argument("--exclude-self", action="store_true", help="a query does not find itself")
    search.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    search.add_argument("--save", help="file to write the index to")
    search.add_argument("--recall", action="store_true", help="compare with an exact index")
    search.add_argument("--out", help="file for the hits: .csv, .jsonl or .md (default: print)")

    synth = add("synth", _synth, "write a synthetic data set in a released layout")
    synth.add_argument("root", help="folder to make; ROOT.partial until it is complete")
    synth.add_argument("--layout", default="sysu", help="sysu (default), regdb, llcm or market")
    synth.add_argument("--workers", type=int, default=2, help="processes at most (default 2)")
    _add_synthetic_options(synth)

    doctor = add("doctor", _doctor, "check a data set in its released layout")
    doctor.epilog = "Exit code: 0 no error was found; 1 there is one; 2 wrong arguments."
    doctor.add_argument("root", help="folder of the data set")
    doctor.add_argument(
        "--layout", help="sysu, regdb, llcm or market (default: recognised by what is there)"
    )
    doctor.add_argument("--workers", type=int, default=2, help="threads that open the images")
    doctor.add_argument("--no-images", action="store_true", help="do not open the images")

    check = add("check", _check, "try the plug-in on your own checkout of a public codebase")
    check.epilog = (
        "Exit code: 0 all invariants held; 11 to 18: 10 + the number of the first that broke; 3: "
        "the network could not be imported, built or trained; 2: wrong arguments."
    )
    check.add_argument("--adapter", required=True, help="e.g. saai; see mixer-plugin list")
    check.add_argument("--checkout", required=True, help="folder of the checkout")
    check.add_argument("--dataset", default="sysu", help="variant of the network")
    check.add_argument("--build", help="module:function of yours that makes the network")

    add("list", _list, "list adapters and baselines")
    return root


def _add_synthetic_options(command: argparse.ArgumentParser) -> None:
    from mixer_plugin.data.synthetic_config import SyntheticConfig

    for item in dataclasses.fields(SyntheticConfig):
        kind = int if item.type == "int" else float
        flag = "--" + item.name.replace("_", "-")
        text = f"default {item.default}"
        if item.name.endswith("_per_camera"):
            text += " (sysu); other layouts have their own"
        command.add_argument(flag, type=kind, default=None, help=text)


def _add_probe_options(command: argparse.ArgumentParser) -> None:
    command.epilog = "With --out, finished parts are kept there, and the same command continues."
    add = command.add_argument
    add("input", nargs="?", help="FeatureSet (.npz), cells/JOB/CELL.pt of table3, or weights")
    add("--root", help="folder of a data set; for stored features, of the one they are of")
    add("--layout", help="default: recognised by what is there")
    add("--split", default="test", help="images that are probed (default test)")
    add("--trial", type=int, help="RegDB's split, 1 to 10 (default 1)")
    add("--out", help="folder for probe.md, probe.json, the run card and what can be used again")
    add("--protocol", default="full", help="of the evaluation (default full)")
    add("--model", help="of the weights: module:function, or torchvision:NAME; no weights: random")
    add("--stage", help="of --model: path of its last stage, or several with commas")
    add("--embed", help="of --model: path of its embedding")
    add("--neck", help="of --model: path of a BatchNorm neck behind the embedding")
    add("--size", help="of --model: HEIGHTxWIDTH of its images (default 256x128)")
    add("--train-heads", action="store_true", help="train related heads on cached maps first")
    add("--iterations", type=int, help="steps of --train-heads (default 800)")
    add("--copies", type=int, help="of --train-heads: cached copies of an image, one plain")
    add("--device", default="cpu", help="where the model runs: cpu (default) or cuda")
    add("--batch", type=int, default=64, help="images at once (default 64)")
    add("--workers", type=int, default=0, help="processes that read images")
    add("--seed", type=int, default=0)
    add("--folds", type=int, default=5, help="parts of the identities (default 5)")
    add("--images", type=int, default=2000, help="images of a probe at most (default 2000)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    Errors of the package are one line on stderr and status 2; Ctrl-C is status 130.
    """
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except MixERError as error:
        print(f"mixer-plugin {options.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mixer-plugin {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
