"""An authority, and certificates from it."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY_S = 86400.0
AUTHORITY = "stub authority"


class Certificates:
    """An authority, and the certificate of a server on 127.0.0.1.

    Args:
        directory: Where the files go.
        valid_s: How long the server's certificate is valid from now; negative: it has ended.

    Attributes:
        authority: Path of the authority's certificate.
    """

    def __init__(self, directory, *, valid_s=DAY_S):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.authority = directory / "authority.pem"
        self.authority.write_bytes(_pem(self._signed(AUTHORITY, self._key, DAY_S)))
        self._of_server = self.issue("127.0.0.1", valid_s=valid_s)

    def issue(self, name, *, valid_s=DAY_S):
        """Paths of a certificate and of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        paths = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        paths[0].write_bytes(_pem(self._signed(name, key, valid_s)))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def context(self):
        """For the server's side of a connection."""
        found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        found.load_cert_chain(*map(str, self._of_server))
        return found

    def _signed(self, name, key, valid_s):
        authority, now = name == AUTHORITY, datetime.now(UTC)
        mine, signer = key.public_key(), self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(AUTHORITY))
            .public_key(mine)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(seconds=valid_s))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(mine), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
        )
        if authority:
            others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
            flags = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
            usage = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **flags)
            builder = builder.add_extension(usage, critical=True)
        elif name[0].isdigit():
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(name))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)
