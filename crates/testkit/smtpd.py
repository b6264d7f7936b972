"""A real mail server for the tests: keeps each mail, with its envelope, in a folder, and ends with its standard input.

smtpd.py FOLDER MODE [CERTIFICATE KEY USER PASSWORD]; MODE is starttls, wrapper or off. It prints its port.
"""
import asyncio
import json
import logging
import os
import ssl
import sys
import warnings

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

warnings.simplefilter("ignore")
logging.disable()
folder, mode, *rest = sys.argv[1:]
certificate, key, user, password = rest if rest else (None, None, None, None)


class Keep:
    count = 0

    async def handle_DATA(self, server, session, envelope):
        name = os.path.join(folder, f"{Keep.count:05}")
        Keep.count += 1
        with open(name + ".eml", "wb") as file:
            file.write(envelope.original_content)
        said = {"from": envelope.mail_from, "to": envelope.rcpt_tos, "options": envelope.mail_options}
        with open(name + ".part", "w") as file:
            json.dump({**said, "encrypted": session.ssl is not None or mode == "wrapper"}, file)
        os.rename(name + ".part", name + ".json")
        return "250 taken"


def authenticator(server, session, envelope, mechanism, data):
    fits = isinstance(data, LoginPassword) and (data.login, data.password) == (user.encode(), password.encode())
    return AuthResult(success=fits, handled=False)


async def main():
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    options = {"hostname": "localhost", "enable_SMTPUTF8": True}
    if user:
        options |= {"authenticator": authenticator, "auth_required": True, "auth_require_tls": mode == "starttls"}
    if mode == "starttls":
        options |= {"tls_context": context, "require_starttls": True}
    loop = asyncio.get_running_loop()
    keep = Keep()
    server = await loop.create_server(lambda: SMTP(keep, **options), "127.0.0.1", 0, ssl=context if mode == "wrapper" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
