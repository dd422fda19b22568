"""Keys, a small log and notes that were published by others, for the tests of notes and proofs."""

from __future__ import annotations

from appliance.adapters.ed25519 import SigningKey, verify
from appliance.ledger.checkpoint import Checkpoint, sign_checkpoint
from appliance.ledger.cosignature import CosignatureVerifier
from appliance.ledger.merkle import MerkleFrontier, inclusion_proof, leaf_hash
from appliance.ledger.note import Ed25519Verifier, SignatureType, format_note
from appliance.ledger.proof_file import ProofFile
from appliance.ledger.tiles import TileBuilder, TileNodes

LOG = SigningKey("example.com/log", SignatureType.ED25519, bytes(range(32)))
OTHER_LOG = SigningKey("example.com/other", SignatureType.ED25519, bytes(range(1, 33)))
FORGER = SigningKey("example.com/log", SignatureType.ED25519, bytes(range(2, 34)))
WITNESSES = [SigningKey(f"witness{n}.example", SignatureType.COSIGNATURE_V1, bytes([n]) * 32) for n in range(3)]
LOG_VERIFIER = Ed25519Verifier(LOG.verifier_key, verify)
WITNESS_VERIFIERS = [CosignatureVerifier(one.verifier_key, verify) for one in WITNESSES]

# The example of c2sp.org/signed-note.
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = """\
This is an example message.

— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=
"""

# The keys and notes of Go's golang.org/x/mod/sumdb/note.
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH_KEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)

# A checkpoint of a Certificate Transparency log in use, with the cosignatures of four public witnesses, and their keys.
PUBLIC_LOG_KEY = "arche2025h1.staging.ct.transparency.dev+ba2f06c0+AU0vHmlGCS/PdN8b2OaGmKprLI8HKM+dJ472xgFYh15f"
PUBLIC_WITNESS_KEYS = [
    "transparency.dev/DEV:witness-little-garden+d8042a87+BCtusOxINQNUTN5Oj8HObRkh2yHf/MwYaGX4CPdiVEPM",
    "witness1.smartit.nu/witness1+a48c820f+BPSFWg9G6KPiO7QPryYO5Xq4oYJJ+kAvLKLSimDhoxMO",
    "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    "witness.stagemole.eu+67f7aea0+BEqSG3yu9YrmcM3BHvQYTxwFj3uSWakQepafafpUqklv",
]
PUBLIC_CHECKPOINT = """\
arche2025h1.staging.ct.transparency.dev
1432088532
U7WM79jrzyhGZ5/GUBTpM7NzwdyfFx61t3RovgcC4Ro=

— arche2025h1.staging.ct.transparency.dev zTM8sQAAAZ5W0WdjBAMARjBEAiBjW5IQf9pvsYLfQFX6hoGREPMHbdQ3urbllzalApkptQIgIpwt\
EroeW2BXaHAI4kJXFbon5Ch9MNL5zRNZ55lvGt0=
— arche2025h1.staging.ct.transparency.dev ui8GwCF1+kWqZrxGdhj4aX3gcw7XUlXQQabg/27lefwhUkzbC3NygNI75MdhL1bfTW9g8Ei59RA2\
3oHP7Ry1k3ZFWwQ=
— transparency.dev/DEV:witness-little-garden 2AQqhwAAAABqEiEgzgFIqqhbUoDwjMWE6UP8nd8/KYTzwZ2rhIgcqoXHAwVkjZr4AscylP3v7s\
EodkRAErumC2q44vdgJY096st5BQ==
— witness1.smartit.nu/witness1 pIyCDwAAAABqEiEghIp82KWebrw7/oHQwlTAm3g2RKS4+eebl8eO0WH+/iEcxZ75W3u5hNI7TOQtmJbqmNWVuE0t\
gh0XwzdZsDsUAQ==
— remora.n621.de 2net5wAAAABqEiEgPlfF3V06o0Y+fHM+J5J9s27wgxxcOVSpZ/2g/KSiXCg9DEZI+aVCIobWX9sXTynk5XeU/zZ0WBxtqB0DrAWf\
Bw==
— witness.stagemole.eu Z/euoAAAAABqEiEgw0i+7g2ENfDAWHmtRzCfKTHSDwYDJA2NmKeGi9Y8FtEyOUvVr+AJmIY/2TUFucgKi7lI7cUiOvKFYe/\
TmN9DAg==
"""

# The examples of c2sp.org/tlog-checkpoint, tlog-cosignature and tlog-witness; the keys to them are not published.
SOFA_TEXT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
SOFA_LINE = (
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE"
    "+xeMcTOAYQ8=\n"
)
SOFA_WITNESS_LINE = (
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0"
    "xUe+mbIUBkBIfZ+qnA==\n"
)


def some_leaves(count: int) -> list[bytes]:
    return [f"leaf {index}".encode() for index in range(count)]


def built(leaves: list[bytes]) -> tuple[TileBuilder, TileNodes]:
    """A tree of these leaves, and a reader of its nodes."""
    builder = TileBuilder()
    store = {one.tile: one.data for leaf in leaves for one in builder.append(leaf_hash(leaf))}
    store |= {one.tile: one.data for one in builder.partial_tiles()}
    return builder, TileNodes(len(leaves), store.__getitem__)


def head_of(leaves: list[bytes], key: SigningKey = LOG) -> Checkpoint:
    builder, _ = built(leaves)
    root = MerkleFrontier.from_frontier(builder.size, builder.frontier()).root()
    return Checkpoint(key.verifier_key.name, len(leaves), root)


def signed(checkpoint: Checkpoint, key: SigningKey = LOG) -> bytes:
    return format_note(sign_checkpoint(checkpoint, key.verifier_key, key.sign))


def proof_of(leaf_index: int, leaves: list[bytes], checkpoint: bytes, extra: bytes = b"") -> ProofFile:
    path = inclusion_proof(leaf_index, len(leaves), built(leaves)[1])
    return ProofFile(leaf_index, tuple(path), checkpoint, extra)
