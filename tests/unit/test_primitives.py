"""The primitives in use, against the published vectors of NIST and the RFCs: as our code calls them, not as the library offers them."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from securechat.crypto.integrity import HMACValidator
from securechat.crypto.key_exchange import EphemeralKey, Suite
from securechat.errors import SessionRefused

FOLDER = Path(cryptography_vectors.__file__).parent


def vectors(name: str, first: str) -> Iterator[dict[str, str]]:
    """Give the blocks of a file of `name = value` lines; each begins with the field `first`. Sections in brackets go along."""
    section: dict[str, str] = {}
    block: dict[str, str] = {}
    for raw in (FOLDER / name).read_text().splitlines():
        line = raw.strip()
        if line.startswith("[") and line.endswith("]"):
            if block:
                yield block
                block = {}
            key, _, value = line[1:-1].partition("=")
            section = {} if not value else section
            section[f"[{key.strip()}]"] = value.strip()
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            if key.strip() == first:
                if block:
                    yield block
                block = dict(section)
            block[key.strip()] = value.strip()
        elif line == "FAIL":
            block["FAIL"] = ""
    if block:
        yield block


def test_aes_256_gcm_opens_what_nist_sealed_and_refuses_what_it_forged() -> None:
    opened = refused = 0
    for each in vectors("ciphers/AES/GCM/gcmDecrypt256.rsp", "Count"):
        if each["[IVlen]"] != "96" or each["[Taglen]"] != "128":
            continue
        cipher = AESGCM(bytes.fromhex(each["Key"]))
        sealed = bytes.fromhex(each["CT"] + each["Tag"])
        bound, nonce = bytes.fromhex(each["AAD"]), bytes.fromhex(each["IV"])
        if "FAIL" in each:
            refused += 1
            with pytest.raises(InvalidTag):
                cipher.decrypt(nonce, sealed, bound)
        else:
            opened += 1
            assert cipher.decrypt(nonce, sealed, bound).hex() == each["PT"]
            assert cipher.encrypt(nonce, bytes.fromhex(each["PT"]), bound) == sealed
    assert opened > 100
    assert refused > 100


def test_hmac_sha256_is_that_of_rfc_4231() -> None:
    found = list(vectors("HMAC/rfc-4231-sha256.txt", "Len"))
    for each in found:
        validator = HMACValidator(bytes.fromhex(each["Key"]))
        message = bytes.fromhex(each["Msg"])
        assert validator.tag(message).hex() == each["MD"]
        assert validator.holds(bytes.fromhex(each["MD"]), message[:3], message[3:])
    assert len(found) >= 5


def test_hkdf_sha256_is_that_of_rfc_5869() -> None:
    found = list(vectors("KDF/rfc-5869-HKDF-SHA256.txt", "COUNT"))
    for each in found:
        root = hmac.digest(bytes.fromhex(each["salt"]) or bytes(32), bytes.fromhex(each["IKM"]), "sha256")
        assert root.hex() == each["PRK"]
        expand = HKDFExpand(hashes.SHA256(), int(each["L"]), bytes.fromhex(each["info"]))
        assert expand.derive(root).hex() == each["OKM"]
    assert len(found) == 3


def test_p256_agrees_with_nist_and_takes_no_point_that_is_none() -> None:
    agreed = refused = 0
    for role in ("init", "resp"):
        for each in vectors(f"asymmetric/ECDH/KASValidityTest_ECCStaticUnified_NOKC_ZZOnly_{role}.fax", "COUNT"):
            if not any(key.startswith("[EC - ") for key in each):
                continue
            key = EphemeralKey(Suite.P256, ec.derive_private_key(int(each["dsIUT"], 16), ec.SECP256R1()))
            peer = bytes.fromhex("04" + each["QsCAVSx"].rjust(64, "0") + each["QsCAVSy"].rjust(64, "0"))
            if each["Result"].startswith("P"):
                agreed += 1
                assert key.exchange(peer).hex() == each["Z"].rjust(64, "0")
            else:
                try:
                    shared = key.exchange(peer).hex()
                except SessionRefused:
                    refused += 1
                else:  # The point is good, and something else of the vector is wrong.
                    assert shared == each["Z"].rjust(64, "0") or "Z" in each["Result"] or "IUT" in each["Result"]
    assert agreed > 10
    assert refused > 0


def test_x25519_is_that_of_rfc_7748_but_for_encodings_that_are_not_canonical() -> None:
    found = list(vectors("asymmetric/X25519/rfc7748.txt", "COUNT"))
    for each in found:
        key = EphemeralKey(Suite.X25519, X25519PrivateKey.from_private_bytes(bytes.fromhex(each["INPUT_SCALAR"])))
        peer = bytes.fromhex(each["INPUT_U"])
        if peer[31] & 0x80:
            with pytest.raises(SessionRefused):
                key.exchange(peer)
        else:
            assert key.exchange(peer).hex() == each["OUTPUT_U"]
    assert len(found) >= 2
