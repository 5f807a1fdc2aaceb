"""23 languages of 10,000 prompts each: assignment, gating of ready-made text and mining on one core; and how full
`build-data`'s coordinator keeps a server that answers after 200 ms.

    python -m benchmarks.mining [--prompts 10000] [--questions 4000] [--concurrency 64]

Prints two JSON objects. Exit status 1 where a bound is missed: 60 s of processor time and 2 GB for the former, 0.9 of
concurrency / latency for the latter. ``--only mining`` or ``--only asking`` does one of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from configs.schema import Config
from judges.answers import Answered
from rollout.assignment import assigned, first_pass
from rollout.gates import apply_gates
from rollout.language import LanguageDetector
from rollout.miners import pairs_a_prompt
from rollout.pairs import mine_pairs
from rollout.plan import Chunk, Request, answer_chunks, foreign_candidate
from rollout.prompts import PromptSet
from rollout.records import Candidate, CandidateKey, Prompt, Score
from rollout.sources import targets

# Of Dang et al. (arXiv 2407.02552). A sentence of each, so that the language gate has real text to look at.
SENTENCES = {
    "en": "The library opens at nine and closes when the last reader has left.",
    "ar": "تفتح المكتبة أبوابها في التاسعة وتغلق عندما يغادر آخر قارئ.",
    "zh": "图书馆九点开门,最后一位读者离开时关门。",
    "cs": "Knihovna se otevírá v devět a zavírá, když odejde poslední čtenář.",
    "nl": "De bibliotheek gaat om negen uur open en sluit wanneer de laatste lezer weg is.",
    "fr": "La bibliothèque ouvre à neuf heures et ferme quand le dernier lecteur est parti.",
    "de": "Die Bibliothek öffnet um neun und schließt, wenn der letzte Leser gegangen ist.",
    "el": "Η βιβλιοθήκη ανοίγει στις εννέα και κλείνει όταν φύγει ο τελευταίος αναγνώστης.",
    "he": "הספרייה נפתחת בתשע ונסגרת כשהקורא האחרון עוזב.",
    "hi": "पुस्तकालय नौ बजे खुलता है और अंतिम पाठक के जाने पर बंद होता है।",
    "id": "Perpustakaan buka pukul sembilan dan tutup ketika pembaca terakhir sudah pergi.",
    "it": "La biblioteca apre alle nove e chiude quando l'ultimo lettore è andato via.",
    "ja": "図書館は九時に開き、最後の読者が帰ると閉まります。",
    "ko": "도서관은 아홉 시에 열고 마지막 독자가 떠나면 문을 닫습니다.",
    "fa": "کتابخانه ساعت نه باز می‌شود و وقتی آخرین خواننده رفت بسته می‌شود.",
    "pl": "Biblioteka otwiera się o dziewiątej i zamyka, gdy wyjdzie ostatni czytelnik.",
    "pt": "A biblioteca abre às nove e fecha quando o último leitor vai embora.",
    "ro": "Biblioteca se deschide la nouă și se închide când pleacă ultimul cititor.",
    "ru": "Библиотека открывается в девять и закрывается, когда уходит последний читатель.",
    "es": "La biblioteca abre a las nueve y cierra cuando se ha ido el último lector.",
    "tr": "Kütüphane dokuzda açılır ve son okuyucu gittiğinde kapanır.",
    "uk": "Бібліотека відкривається о дев'ятій і зачиняється, коли йде останній читач.",
    "vi": "Thư viện mở cửa lúc chín giờ và đóng cửa khi người đọc cuối cùng đã về.",
}
LATENCY_S = 0.2
MOST_S, MOST_GB, LEAST_FULL = 60.0, 2.0, 0.9


def main() -> int:
    """Both measurements; exit status 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--questions", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--only", choices=("mining", "asking"))
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    within = True
    if given.only != "asking":
        found = mining(given.prompts)
        print(json.dumps(found), flush=True)
        within = found["seconds"] <= MOST_S and found["memory_gb"] <= MOST_GB
    if given.only != "mining":
        asked = asking(given.questions, given.concurrency)
        print(json.dumps(asked), flush=True)
        within &= asked["of_the_most"] >= LEAST_FULL
    return 0 if within else 1


def _config(folder: Path, prompts: int, url: str = "http://localhost:1/v1", concurrency: int = 16) -> Config:
    server = {"base_url": url, "model": "stub", "max_concurrency": concurrency}
    return Config.model_validate(
        {
            "run": {"dir": str(folder), "name": "benchmark"},
            "model": {"policy": "start"},
            "languages": {"codes": list(SENTENCES), "quota": {"pairs_per_round": prompts * len(SENTENCES) * 9 // 10}},
            "prompts": {"train": "{lang}.jsonl"},
            "endpoints": {"strong": server, "weak": server},
            "candidates": {
                "sources": [
                    {"kind": "endpoint", "name": "direct", "endpoint": "strong"},
                    {"kind": "endpoint", "name": "weak", "endpoint": "weak"},
                ]
            },
            "reward": {"kind": "verifier"},
            "pairs": {
                "miner": "by_source",
                "chosen": ["direct"],
                "rejected": ["weak"],
                "require_reward_agreement": True,
            },
        }
    )


def mining(count: int) -> dict[str, float]:
    """Processor seconds of assignment, gates and mining over ``count`` prompts a language, and the most memory (GB)."""
    config = _config(Path(), count)
    ids = tuple(f"p{i:05d}" for i in range(count))
    rows = {(i, c): Prompt(i, c, f"Prompt {i}", answer="x") for c in SENTENCES for i in ids}
    prompts = PromptSet(ids, tuple(SENTENCES), rows, {})
    draw = random.Random(0)

    begin = time.process_time()
    per_prompt = {code: pairs_a_prompt(config, code) for code in targets(config.languages)}
    assignment = assigned(config, prompts, 1, first_pass(config, 0, per_prompt))
    chunks = answer_chunks(config, prompts, 1, assignment)
    dealt = time.process_time() - begin

    detector = LanguageDetector(list(SENTENCES), config.gates.language_min_chars)
    judged: list[Candidate] = []
    gating = 0.0
    for chunk in chunks:
        # Making the texts up is no part of what is measured.
        made = [_answer(chunk, request, draw) for request in chunk.requests]
        begin = time.process_time()
        judged += apply_gates(config.gates, made, detector)
        gating += time.process_time() - begin
    scores = [Score(one.key, draw.random()) for one in judged if one.gate == "ok"]

    begin = time.process_time()
    mined = mine_pairs(config, prompts, 1, judged, scores, assignment=assignment)
    took = time.process_time() - begin
    return {
        "languages": len(SENTENCES),
        "prompts": sum(len(assignment.ids(code)) for code in SENTENCES),
        "candidates": len(judged),
        "passed": len(scores),
        "pairs": len(mined.pairs),
        "assignment_s": round(dealt, 2),
        "gates_s": round(gating, 2),
        "mining_s": round(took, 2),
        "seconds": round(dealt + gating + took, 2),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def _answer(chunk: Chunk, request: Request, draw: random.Random) -> Candidate:
    words = SENTENCES[chunk.language].split()
    draw.shuffle(words)  # no two texts have the same letters in the same order: nothing can be looked up
    text = f"{' '.join(words)} ({chunk.source} {draw.randrange(10**6)})"
    return foreign_candidate(request.key, text, False, "stub", ((), True))


def asking(questions: int, concurrency: int) -> dict[str, float]:
    """Answers a second of a server with a latency of 200 ms, as a share of the most possible."""
    from actors.train.source_coordinator import SourceCoordinator

    server = _SlowServer()
    with tempfile.TemporaryDirectory() as name, server:
        config = _config(Path(name), 10, server.url, concurrency)
        size = config.rollout.chunk_prompts
        requests = [
            Request(CandidateKey(1, f"p{i}", "en", "direct", "en", 0), f"Question {i}", "", 0.0, 1.0, -1, 0, 0)
            for i in range(questions)
        ]
        got = 0

        def taken(_begin: float, _end: float, answers: list[Answered]) -> None:
            nonlocal got
            got += len(answers)

        with closing(SourceCoordinator(config, Path(name) / "answers.sqlite")) as coordinator:
            begin, busy = time.perf_counter(), time.process_time()
            for start in range(0, questions, size):
                own = tuple(requests[start : start + size])
                coordinator.submit(Chunk(f"c{start}", 1, "answer", "en", "en", own, "direct"), taken)
            while not coordinator.idle:
                coordinator.collect(0.02)
            took, busy = time.perf_counter() - begin, time.process_time() - busy
    assert got == questions, f"{got} answers to {questions} questions"
    most = concurrency / LATENCY_S
    return {
        "questions": questions,
        "concurrency": concurrency,
        "latency_s": LATENCY_S,
        "answers_per_second": round(questions / took, 1),
        "of_the_most": round(questions / took / most, 3),
        "processor_ms": round(1000 * busy / questions, 2),  # an answer, the stub's part included
    }


class _SlowServer:
    """A chat server on the loopback interface that answers each request after 200 ms, in a thread of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._ready.wait(10)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._talk, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        self._loop.run_forever()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        choice = {"message": {"role": "assistant", "content": "An answer."}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice]}).encode()
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line
                )
                await reader.readexactly(length)
                await asyncio.sleep(LATENCY_S)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


if __name__ == "__main__":
    sys.exit(main())
