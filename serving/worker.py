"""What runs inside vLLM's engine process: verified weights from a folder, between two steps of the scheduler."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from actors.engine.verify import checked_tensors, expected_shapes
from actors.engine.weight_transfer import Extension
from actors.runtime.health import SyncError
from learners.manifest import manifest_from_json
from learners.weights import to_numpy
from serving.describe import folder_weights

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as _Worker
else:
    _Worker = object


class ServingWorker(Extension, _Worker):
    """Worker extension: the same backend and checks as a rollout engine, fed from a file instead of by reference.

    The engine of an asynchronous vLLM is a process of its own, which Ray's object store does not reach; a checkpoint
    that was just written lies in the page cache, which it does reach.
    """

    def isogloss_load(self, folder: str, manifest_json: str) -> float:
        """Replace all weights; returns seconds.

        Raises:
            SyncError: The folder's weights are not the manifest's, or could not be taken.
        """
        begun = time.perf_counter()
        manifest = manifest_from_json(json.loads(manifest_json))
        weights = folder_weights(Path(folder))
        arrays = to_numpy({name: weights[name] for name in manifest.names if name in weights})
        tensors = checked_tensors(manifest, arrays, expected_shapes(Path(folder)))
        self.start_weight_update()
        self.update_weights({"tensors": tensors})
        self.finish_weight_update()
        if failure := self.weights_failure():
            raise SyncError(f"weights of version {manifest.version} were not taken: {failure}")
        return time.perf_counter() - begun
