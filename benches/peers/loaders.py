"""Token rows written, read in a shuffled epoch, or found again after a stop, by one peer
in a process of its own; says in one line of JSON what it took.

usage: loaders.py PEER WORK BENCH

PEER is numpy, numpy-pieces, litdata, hf, hf-map, megatron, mds or grain. WORK is

  tokens  takes the ids of BENCH/plain/data/pretrain out of its shards, for all peers
  write   ids in memory become the peer's dataset
  epoch   one epoch in the peer's own random order, batches of 16 rows of 2,049 ids
  resume  builds the loader, goes on in the middle of an epoch, gives the first batch

CPU seconds are user and system time of the process and its children, imports excluded.
Nothing is done with a batch once it is an array in memory, and no peer gets workers.
"""

import glob
import importlib
import json
import os
import resource
import shutil
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

PEER, WORK, BENCH = sys.argv[1:]
ROW, BATCH = 2049, 16
WRITES = 3
IDS = os.path.join(BENCH, "tokens.u16")
ENDS = os.path.join(BENCH, "ends.i64")
OUT = os.path.join(BENCH, "peers", PEER.removesuffix("-map"))


def cpu():
    """User and system seconds of this process and of children that ended."""
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, who))


def private():
    """Bytes of memory that are this process's alone."""
    with open("/proc/self/status", encoding="ascii") as file:
        (line,) = (line for line in file if line.startswith("RssAnon:"))
    return 1024 * int(line.split()[1])


def take_tokens():
    """The ids behind one another, cut after a whole row, and where documents end."""
    shards = sorted(glob.glob(f"{BENCH}/plain/data/pretrain/shards/train-*.bin"))
    ids = np.concatenate([np.fromfile(path, np.uint16, offset=1024) for path in shards])
    ids = ids[: ids.size // ROW * ROW]
    # The vocabulary ends with the reserved ids, of which a pretraining row has one.
    (end,) = np.unique(ids[ids > 50256])
    ends = np.flatnonzero(ids == end) + 1
    if ends[-1] != ids.size:
        ends = np.append(ends, ids.size)
    ids.tofile(IDS)
    ends.astype(np.int64).tofile(ENDS)


def all_ids():
    return np.fromfile(IDS, np.uint16)


def all_rows():
    return all_ids().reshape(-1, ROW)


def n_batches():
    return os.path.getsize(IDS) // 2 // ROW // BATCH


class Peer:
    """Gives batches from a position in an epoch on, or from a state that it made before."""

    needs = ()

    def state(self):
        return None


class Numpy(Peer):
    """The memory map of nanoGPT, with every row once."""

    def write(self):
        ids = all_ids()
        yield
        out = np.memmap(OUT, np.uint16, "w+", shape=ids.shape)
        out[:] = ids
        out.flush()

    def batches(self, start, state=None):
        rows = np.memmap(OUT, np.uint16, "r").reshape(-1, ROW)
        order = np.random.default_rng(1).permutation(len(rows))
        for k in range(start, n_batches()):
            yield rows[order[k * BATCH : (k + 1) * BATCH]]


class NumpyPieces(Numpy):
    """The same from a file written as ours are, in pieces as large as a huge page."""

    def write(self):
        ids = all_ids().tobytes()
        yield
        with open(OUT, "wb", buffering=0) as file:
            for start in range(0, len(ids), 1 << 21):
                file.write(ids[start : start + (1 << 21)])
            os.fsync(file.fileno())


class Litdata(Peer):
    """Its loader for tokens; a state that it wrote itself is moved to the middle."""

    needs = ("litdata", "torch")

    def write(self):
        import litdata

        some = 4096
        ends = np.fromfile(ENDS, np.int64)
        ranges = [(k, min(k + some, len(ends))) for k in range(0, len(ends), some)]
        yield
        litdata.optimize(
            fn=documents_of,
            inputs=ranges,
            output_dir=OUT,
            num_workers=1,
            chunk_bytes="64MB",
            item_loader=litdata.TokensLoader(),
            keep_data_ordered=True,
        )

    def loader(self):
        import litdata

        tokens = litdata.TokensLoader(block_size=ROW)
        data = litdata.StreamingDataset(OUT, item_loader=tokens, shuffle=True, seed=1, drop_last=True)
        return litdata.StreamingDataLoader(data, batch_size=BATCH, num_workers=0)

    def state(self):
        loader = self.loader()
        next(iter(loader))
        state = loader.state_dict()
        samples = n_batches() // 2 * BATCH
        state["num_samples_yielded"] = state["dataset"]["num_samples_yielded"] = samples
        if "sample_in_epoch" in state["dataset"]:
            state["dataset"]["sample_in_epoch"] = samples
        return state

    def batches(self, start, state=None):
        loader = self.loader()
        if state is not None:
            loader.load_state_dict(state)
        for batch in loader:
            yield batch.numpy()


def documents_of(some):
    import torch

    ids, ends = np.memmap(IDS, np.uint16, "r"), np.fromfile(ENDS, np.int64)
    for k in range(*some):
        yield torch.from_numpy(np.array(ids[ends[k - 1] if k else 0 : ends[k]]))


class Hf(Peer):
    """Rows in Arrow, shuffled as a stream through a buffer."""

    needs = ("datasets",)

    def write(self):
        import datasets
        import pyarrow as pa

        datasets.disable_progress_bars()
        rows = all_rows()
        yield
        offsets = pa.array(np.arange(0, rows.size + 1, ROW, dtype=np.int32))
        table = pa.table({"ids": pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)))})
        features = datasets.Features({"ids": datasets.List(datasets.Value("uint16"))})
        datasets.Dataset(table).cast(features).save_to_disk(OUT)

    def open(self):
        import datasets

        datasets.disable_progress_bars()
        return datasets.load_from_disk(OUT).with_format("numpy")

    def stream(self):
        stream = self.open().to_iterable_dataset(num_shards=64)
        return stream.shuffle(seed=1, buffer_size=2048).batch(BATCH)

    def state(self):
        stream = self.stream()
        iterator = iter(stream)
        for _ in range(n_batches() // 2):
            next(iterator)
        return stream.state_dict()

    def batches(self, start, state=None):
        stream = self.stream()
        if state is not None:
            stream.load_state_dict(state)
        for batch in stream:
            yield np.asarray(batch["ids"])


class HfMap(Hf):
    """The same rows by index, in an order that it writes down first."""

    def state(self):
        return None

    def batches(self, start, state=None):
        data = self.open().shuffle(seed=1)
        for k in range(start, n_batches()):
            yield data[k * BATCH : (k + 1) * BATCH]["ids"]


class Megatron(Peer):
    """Its indexed dataset under its GPT dataset, with the index files in its cache."""

    needs = ("torch", "megatron.core.datasets.gpt_dataset", "megatron.core.datasets.helpers")

    def write(self):
        import torch
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

        ids, ends = all_ids(), np.fromfile(ENDS, np.int64).tolist()
        yield
        os.makedirs(OUT)
        builder = IndexedDatasetBuilder(f"{OUT}/data.bin", dtype=np.uint16)
        start = 0
        for end in ends:
            builder.add_document(torch.from_numpy(ids[start:end]), [end - start])
            start = end
        builder.finalize(f"{OUT}/data.idx")

    def data(self):
        import torch
        from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
        from megatron.core.datasets.utils import Split

        if not torch.distributed.is_initialized():
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)

        class Tokenizer:
            vocab_size, eod, pad, unique_identifiers = 50260, 50258, -1, {"name": "gpt2"}

        config = GPTDatasetConfig(
            random_seed=1,
            sequence_length=ROW - 1,
            blend=([f"{OUT}/data"], None),
            split="1,0,0",
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
            tokenizer=Tokenizer(),
            path_to_cache=f"{OUT}/cache",
        )
        low = GPTDataset.build_low_level_dataset(f"{OUT}/data", config)
        documents = np.arange(len(low), dtype=np.int32)
        return GPTDataset(low, f"{OUT}/data", documents, None, Split.train, config)

    def state(self):
        # Later runs find the index files.
        len(self.data())

    def batches(self, start, state=None):
        data = self.data()
        for k in range(start, min(n_batches(), len(data) // BATCH)):
            rows = range(k * BATCH, (k + 1) * BATCH)
            yield np.stack([data[row]["tokens"].numpy() for row in rows])


class Mds(Peer):
    """Rows as arrays of mosaicml-streaming."""

    needs = ("torch", "streaming", "streaming.base.util")

    def write(self):
        from streaming import MDSWriter

        rows = all_rows()
        yield
        columns = {"ids": f"ndarray:uint16:{ROW}"}
        with MDSWriter(out=OUT, columns=columns, size_limit=1 << 26) as writer:
            for row in rows:
                writer.write({"ids": row})

    def data(self):
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()
        return StreamingDataset(
            local=OUT, shuffle=True, shuffle_seed=1, batch_size=BATCH, num_canonical_nodes=1
        )

    def batches(self, start, state=None):
        data = self.data()
        if start:
            state = {"epoch": 0, "sample_in_epoch": start * BATCH, "shuffle_seed": 1}
            nodes = {"num_canonical_nodes": 1, "initial_physical_nodes": 1}
            data.load_state_dict(state | nodes)
        batch = []
        for sample in data:
            batch.append(sample["ids"])
            if len(batch) == BATCH:
                yield np.stack(batch)
                batch = []


class Grain(Peer):
    """Rows as records of an ArrayRecord file."""

    needs = ("grain.python", "array_record.python.array_record_module")

    def write(self):
        from array_record.python.array_record_module import ArrayRecordWriter

        rows = all_rows()
        yield
        writer = ArrayRecordWriter(OUT, "group_size:1,uncompressed")
        for row in rows:
            writer.write(row.tobytes())
        writer.close()

    def batches(self, start, state=None):
        import grain.python as grain

        data = grain.MapDataset.source(grain.ArrayRecordDataSource([OUT])).shuffle(seed=1)
        data = data.map(lambda record: np.frombuffer(record, np.uint16)).batch(BATCH)
        options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)
        iterator = iter(data.to_iter_dataset(options))
        if start:
            state = iterator.get_state()
            state["next_index"] = start
            iterator.set_state(state)
        return iterator


PEERS = {
    "numpy": Numpy,
    "numpy-pieces": NumpyPieces,
    "litdata": Litdata,
    "hf": Hf,
    "hf-map": HfMap,
    "megatron": Megatron,
    "mds": Mds,
    "grain": Grain,
}


def clear():
    if os.path.isdir(OUT):
        shutil.rmtree(OUT)
    elif os.path.exists(OUT):
        os.remove(OUT)


def size(path):
    if os.path.isfile(path):
        return os.path.getsize(path)
    files = (os.path.join(top, name) for top, _, names in os.walk(path) for name in names)
    return sum(map(os.path.getsize, files))


def written(peer):
    """When a write began and ended. Most of it may be finding memory: a virtual machine has
    given back to its host what nobody used for a second or two."""
    clear()
    work = peer.write()
    next(work)
    start = cpu(), time.perf_counter()
    next(work, None)
    return start, (cpu(), time.perf_counter())


def run(peer):
    if WORK == "write":
        times = [written(peer) for _ in range(WRITES)]
        start, end = min(times, key=lambda time: time[1][0] - time[0][0])
        seconds = [round(end[0] - start[0], 4) for start, end in times]
        found = {"tokens": os.path.getsize(IDS) // 2, "bytes": size(OUT)}
        return start, end, found | {"all_cpu_seconds": seconds}
    if WORK == "epoch":
        start, tokens = (cpu(), time.perf_counter()), 0
        for batch in peer.batches(0):
            tokens += batch.size
        end = cpu(), time.perf_counter()
        return start, end, {"tokens": tokens}
    state = peer.state()
    start = cpu(), time.perf_counter()
    tokens = next(iter(peer.batches(n_batches() // 2, state))).size
    end = cpu(), time.perf_counter()
    return start, end, {"tokens": tokens}


def main():
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    if WORK == "tokens":
        return take_tokens()
    peer = PEERS[PEER]()
    for module in peer.needs:
        importlib.import_module(module)
    (cpu_start, wall_start), (cpu_end, wall_end), found = run(peer)
    line = {
        "peer": PEER,
        "work": WORK,
        "cpu_seconds": round(cpu_end - cpu_start, 4),
        "wall_seconds": round(wall_end - wall_start, 4),
        "private_bytes": private(),
    }
    print(json.dumps(line | found), flush=True)


if __name__ == "__main__":
    main()
