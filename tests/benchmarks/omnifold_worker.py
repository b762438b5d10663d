"""The `omnifold` package (Mikuni; TensorFlow) in a process of its own, on events of a file.

``python omnifold_worker.py EVENTS.npz SETTINGS WEIGHTS.npy`` prints one line of JSON. The events are ``truth``,
``reco`` and ``passes`` of the simulation and the observed ``data``; SETTINGS is JSON with hidden, activation,
iterations, ensemble, steps, batch_size (both classes together, as the package counts), learning_rate,
validation_fraction, seed and threads. The weights, one a simulated event, have no meaning beyond their shape:
``normalize=True`` of its README scales data and simulation to the same sum.

What one has to know of the package (0.1.36) to compare with it:

* Networks of an iteration start from those of the iteration before; Adam starts anew, at a constant learning rate.
  (``CompileModels(fixed=True)``, which would lower the rate after the first iteration, compiles models that nobody
  trains: ``RunModel`` compiles its own copies at the full rate.) Later iterations have therefore been trained for
  more steps than ours, which start from nothing.
* Steps come in epochs of all training events; of the epochs of a training the one with the best held-out loss counts.
* Batches mix the classes, so that the number of events of each fluctuates, and step 2 holds out other events of the
  numerator than of the denominator. Ours has as many of each in every batch, and holds out the same events.
* The normalisation is what the networks make of it, a few per cent off after some steps.
* With Keras 3.15 an unfolding stops at once: ``clone_model`` rebuilds the compiled loss by a name that the package does
  not register. We register it.
* Simulated events that fail the reconstruction stay in the batches of step 1 with weight 0: a batch holds fewer
  events that count.
* It has step ensembling alone: members are trained one after the other, their ratios averaged after every step.
* Held-out events are the last of one shuffled order, the same in all iterations.
* Undetected events go into step 2 with the push weight of before (ours with ``missed="unchanged"``): where the
  efficiency depends on x, five iterations are not enough.
* Inputs are not standardised; here they have unit size anyhow.
* It writes weights and a pickle of every training, and a log, into the working directory.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path


def main(events: Path, settings: dict, weights: Path) -> None:
    threads = str(settings["threads"])
    os.environ |= {
        "OMP_NUM_THREADS": threads,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "MPLBACKEND": "agg",
    }
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    with contextlib.redirect_stdout(sys.stderr):
        import omnifold

        # clone_model of Keras 3 rebuilds the compiled loss by its name, which the package does not register.
        loss = omnifold.net.weighted_binary_crossentropy
        tf.keras.utils.get_custom_objects()[loss.__name__] = loss
        tf.keras.utils.set_random_seed(settings["seed"])
        columns = np.load(events)
        data = omnifold.DataLoader(reco=columns["data"].astype(np.float32)[:, None], normalize=True)
        simulation = omnifold.DataLoader(
            reco=columns["reco"].astype(np.float32)[:, None],
            gen=columns["truth"].astype(np.float32)[:, None],
            pass_reco=columns["passes"],
            normalize=True,
        )
        networks = [
            omnifold.MLP(1, layer_sizes=list(settings["hidden"]), activation=settings["activation"])
            for _ in range(2)
        ]
        batch, fraction = settings["batch_size"], 1.0 - settings["validation_fraction"]
        # Steps of an epoch as the package works them out, for detector and particle level.
        of_an_epoch = [
            int(fraction * ((n // batch) * batch) // batch)
            for n in (simulation.nmax + data.nmax, 2 * simulation.nmax)
        ]
        epochs = max(1, round(settings["steps"] / np.mean(of_an_epoch)))
        with tempfile.TemporaryDirectory() as folder:
            unfolding = omnifold.MultiFold(
                "benchmark",
                *networks,
                data,
                simulation,
                weights_folder=f"{folder}/weights",
                log_folder=folder,
                niter=settings["iterations"],
                n_ensemble=settings["ensemble"],
                batch_size=batch,
                epochs=epochs,
                lr=settings["learning_rate"],
                early_stop=epochs + 1,
                train_frac=fraction,
            )
            start = time.perf_counter(), time.process_time()
            unfolding.Unfold()
            wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    np.save(weights, unfolding.weights_push * simulation.weight)
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "steps": [epochs * n for n in of_an_epoch]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
