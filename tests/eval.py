"""`make eval`: scores with intervals, printed as a table and kept as JSON. Uses ../shared where it stands beside the checkout."""

import argparse
import asyncio
import json
import math
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.questions import QUESTIONS, judge

SHARED = Path(__file__).resolve().parents[2] / "shared"


def wilson(right: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    z, p = 1.96, right / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


async def the_questions() -> dict[str, Any]:
    """The questions of the sample case, and how many statements were left out."""
    from knowledge import sample
    from serving.house import build
    from serving.settings import Settings

    right, statements, left_out = 0, 0, 0
    with tempfile.TemporaryDirectory() as folder:
        house = build(Settings(data=Path(folder)))
        sample.load(house.archive)
        async with house.assistant as assistant:
            for asked in QUESTIONS:
                conversation = assistant.open(patient_id=sample.PATIENT_ID)
                for before in asked.before:
                    await assistant.ask(conversation.id, before)
                answer = await assistant.ask(conversation.id, asked.text)
                statements += len(answer.statements)
                left_out += len(answer.left_out)
                try:
                    judge(asked, json.loads(answer.model_dump_json()))
                    right += 1
                except AssertionError as error:
                    print(f"wrong: {asked.text}: {error}")
    return {
        "right": right,
        "of": len(QUESTIONS),
        "interval": wilson(right, len(QUESTIONS)),
        "statements": statements,
        "left_out": left_out,
    }


def volumes() -> dict[str, Any]:
    """Dice of the outline and class of the classifier on held-out glioma volumes, through the tools' own path."""
    from knowledge.case import open_case
    from knowledge.guidelines.minilm import MiniLM
    from knowledge.guidelines.search import GuidelineIndex
    from knowledge.records.search import RecordSearch
    from knowledge.studies import nifti
    from knowledge.studies.archive import Archive
    from knowledge.studies.intake import Hints
    from knowledge.studies.unpack import Incoming
    from knowledge.studies.volume import Volume
    from tools.base import Bench, Resources
    from tools.models.catalogue import Catalogue
    from tools.models.masks import segmentation
    from tools.registry import tool_types

    found: dict[str, Any] = {}
    embedder = MiniLM()
    for folder in sorted((SHARED / "data" / "mri3d_glioma_brats_NC").glob("*_1")):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary)
            resources = Resources(Catalogue(), GuidelineIndex(root / "c", embedder), embedder, RecordSearch(embedder))
            archive = Archive(root / "a")
            brain = np.asarray(nib.load(folder / "brainmask.nii.gz").dataobj) > 0
            files = []
            for name, source in (("flair", "Flair"), ("t1c", "T1c")):
                image = nib.load(folder / f"{source}_subtrMeanDivStd.nii.gz")
                array = image.get_fdata(dtype=np.float32)
                array = np.where(brain, array - array[brain].min() + 0.01, 0)
                files.append(Incoming(f"{name}.nii.gz", nifti.to_bytes(Volume(array, image.affine))))
            archive.add(files, Hints(patient_id="P", modality="MR", body_part="BRAIN"))
            bench = Bench(resources, open_case(archive, "P"))
            done = segmentation(bench)
            labels = np.asarray(nib.load(folder / "OTMultiClass.nii.gz").dataobj)
            truths = {"whole tumour": labels > 0, "tumour core": np.isin(labels, (1, 3, 4)), "enhancing tumour": labels == 4}
            row: dict[str, Any] = {}
            for region in done.regions:
                mine, truth = done.part(region).array > 0, truths[region.name]  # type: ignore[union-attr]
                row[f"{region.name} dice"] = round(float(2 * (mine & truth).sum() / (mine.sum() + truth.sum())), 3)
            row["hd95_mm"] = hd95(done.part(done.regions[0]).array > 0, truths["whole tumour"])  # type: ignore[union-attr]
            sizes = {f.title: f for f in tool_types()["measure"].bound(bench).reply({}).facts}
            row |= {
                "ml": sizes["Volume"].value,
                "true_ml": round(float((labels > 0).sum()) / 1000, 1),
                "interval_ml": sizes["Volume"].interval,
            }
            fact = tool_types()["classify"].bound(bench).reply({}).facts[0]
            found[folder.name] = {**row, "class": fact.value["label"], "probability": fact.value["probability"]}
    whole = np.array([r["whole tumour dice"] for r in found.values()])
    drawn = np.random.default_rng(0).choice(whole, (2000, len(whole))).mean(1)
    found["all"] = {"whole_dice_mean": round(float(whole.mean()), 3), "interval": np.percentile(drawn, [2.5, 97.5]).round(3).tolist(),
                    "least": float(whole.min())}  # fmt: skip
    return found


def hd95(mine: np.ndarray, truth: np.ndarray) -> float:
    """95th percentile of the distance between two surfaces, in mm (voxels of 1 mm), by MONAI."""
    import torch
    from monai.metrics import compute_hausdorff_distance

    pair = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (mine, truth)]
    return round(float(compute_hausdorff_distance(*pair, percentile=95)[0, 0]), 1)


def foreign_pictures() -> dict[str, Any]:
    """Of pictures of many kinds, the share that each 2D model in the box refuses (without and with a header that claims its kind)."""
    from tools.models.catalogue import Catalogue
    from tools.models.scoring import features_of, foreign

    kinds = foreign(SHARED / "data")
    found: dict[str, Any] = {}
    for bundle in Catalogue().of("classification"):
        limits = bundle.card.novelty
        rows = {}
        for kind, pictures in kinds.items():
            away = bundle.distances(features_of(bundle, pictures, bundle.stages))
            assert away is not None
            rows[kind] = {"n": len(away), "refused": round(float((away > limits["refuse"]).mean()), 3),
                          "refused_as_stated": round(float((away > limits.get("refuse_stated", limits["refuse"])).mean()), 3)}  # fmt: skip
        found[bundle.name] = rows
    return found


def cards() -> dict[str, Any]:
    """Out-of-fold figures of the models in the box, as their recipes wrote them (training them again takes hours)."""
    from tools.models.catalogue import Catalogue

    return {
        b.name: {"scores": b.card.scores, "rates": b.card.rates and b.card.rates.model_dump()}
        for b in Catalogue().bundles.values()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("eval.json"))
    parser.add_argument("--llm-url", help="an OpenAI-compatible server to ask the agent's questions of too")
    parser.add_argument("--llm-model", help="the name of its model")
    parser.add_argument("--serve", help="start a real vLLM with this profile for it (`make vllm-setup` first)")
    args = parser.parse_args()
    from tests import eval_agent, eval_field, eval_reports, eval_words

    result: dict[str, Any] = {"questions": asyncio.run(the_questions())}
    result |= {
        "guideline_retrieval": eval_words.retrieval(),
        "rules": eval_words.rules(),
        "report_sentences": eval_words.report_sentences(),
    }
    result["field_work"] = {"check_report": eval_reports.scores(), **eval_field.scores()}
    print(eval_words.shown(result["guideline_retrieval"]))
    if SHARED.exists():
        from tests import eval_intake

        result |= {"held_out_gliomas": volumes(), "foreign_pictures": foreign_pictures(), "models": cards()}
        result |= {"which_series": eval_intake.scores()}
        from tests import eval_course

        result["course_of_made_pairs"] = eval_course.course_scores()
    else:
        print("../shared isn't beside this checkout: the held-out volumes and the shared questions were skipped")
    with ExitStack() as stack:
        url, name = args.llm_url, args.llm_model
        if args.serve:
            from serving.llm.profiles import profile_of
            from tests.vllm.conftest import serving

            url, name = stack.enter_context(serving(args.serve)).url, args.serve
            if profile_of(name).chooses:
                os.environ["CONSILIUM_LLM_CHOOSES"] = "true"
            if (turns := profile_of(name).turns) is not None:
                os.environ["CONSILIUM_LLM_TURNS"] = str(turns)
        agent, columns = eval_agent.measured(url, name)
        result["agent"] = agent
        if url and name:
            from tests.vllm import scores

            result["served_planner"] = scores.on_the_sample(url, name)
            print(scores.table(result["served_planner"]))
        else:
            print(
                "no served model: `make vllm-setup` first, or LLM_URL=… LLM_MODEL=…, and its scores stand beside the built-in planner's"
            )
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    print(eval_agent.table(columns))


if __name__ == "__main__":
    main()
