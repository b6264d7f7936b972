"""Takes one sealed notification out of the email queue and prints it opened: AMQP_URL=... python3 examples/open_sealed.py KEY_FILE..."""
import json, os, sys

import pika
from jwcrypto import jwe, jwk

# By kid, which is the thumbprint of RFC 7638. During a rotation there are two, the old one and the new one.
keys = {}
for file in sys.argv[1:]:
    with open(file, "rb") as pem:
        key = jwk.JWK.from_pem(pem.read())
    keys[key.thumbprint()] = key

prefix = os.environ.get("AMQP_PREFIX", "")
connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")))
channel = connection.channel()
method, _, body = channel.basic_get(f"{prefix}emails")
if method is None:
    sys.exit("no notification is waiting")
notification = json.loads(body)
# Only the algorithms that resetd writes: a message is not to choose how it is opened.
token = jwe.JWE(algs=["RSA-OAEP-256", "A256GCM"])
token.deserialize(notification.pop("sealed"))
kid = token.jose_header["kid"]
if kid not in keys:
    sys.exit(f"it is sealed to kid {kid}, and no key here has that thumbprint")
token.decrypt(keys[kid])
opened = json.loads(token.payload)
# Who copies a sealed text into a message of their own is not to choose who gets it.
for name in ("notificationId", "org", "userId", "to"):
    if opened[name] != notification.get(name):
        sys.exit(f"{name} is not the one that was sealed: tell nobody")
print(json.dumps(notification | opened))  # here: send the mail
channel.basic_ack(method.delivery_tag)  # only then
connection.close()
