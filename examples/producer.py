"""Asks for one reset and waits for its outcome: AMQP_URL=... python3 examples/producer.py USER_ID EMAIL"""
import json, os, sys, time, uuid

import pika

user, email = sys.argv[1:3]
org, prefix = os.environ.get("ORG", "main"), os.environ.get("AMQP_PREFIX", "")
connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")))
channel = connection.channel()
channel.confirm_delivery()  # from here on a job that the broker does not take, or cannot route, is an error
replies = channel.queue_declare("", exclusive=True).method.queue  # lives as long as this connection

job = str(uuid.uuid4())  # sent again with the same id, it is not done again
channel.basic_publish(
    f"{prefix}resets",
    org,  # or f"{org}.bulk", where nobody waits for it
    json.dumps({"userId": user, "password": True, "email": email}).encode(),
    pika.BasicProperties(
        message_id=job,
        timestamp=int(time.time()),  # in seconds
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        reply_to=replies,
        correlation_id=job,
    ),
    mandatory=True,
)
for _, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=60):
    outcome = json.loads(body) if body else sys.exit("no outcome within a minute; the job stays queued")
    print(json.dumps(outcome))
    connection.close()
    sys.exit(0 if outcome["success"] else 1)
