"""Small preprocessing jobs, and what they leave."""

from pathlib import Path

from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.preprocessing import PreprocessingJob
from gpt2dist.tokenizer.tokenizer import Tokenizer


def job(corpus, tokenizer, output, **options):
    return PreprocessingJob(inputs=(str(corpus),), tokenizer=str(tokenizer), output=Path(output), **options)


def content(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def documents(manifest, split):
    tokenizer = Tokenizer.load(manifest.directory)
    shards = [Shard(manifest.directory / record.name) for record in manifest.shards_of(split)]
    return [tokenizer.decode(shard.document(i)) for shard in shards for i in range(shard.documents)]
