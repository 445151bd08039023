"""A mail server that wants STARTTLS and a login: writes each mail as a line of JSON, until its standard input ends.
usage: mail_server.py PORT CERTIFICATE KEY USERNAME PASSWORD_FILE OUT"""

import email, email.policy, json, ssl, sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

port, certificate, key, username, password_file, out = sys.argv[1:]
with open(password_file, "rb") as file:
    password = file.read()


def authenticate(server, session, envelope, mechanism, login):
    good = login.login == username.encode() and login.password == password
    session.login_name = login.login.decode(errors="replace")
    return AuthResult(success=good, handled=good)


class Keep:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        line = {
            "tls": session.ssl is not None,
            "login": session.login_name,
            "recipients": envelope.rcpt_tos,
            "subject": mail["subject"],
            "to": mail["to"],
            "message_id": mail["message-id"],
            "body": mail.get_content(),
        }
        with open(out, "a") as file:
            file.write(json.dumps(line) + "\n")
        return "250 kept"


context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)
controller = Controller(
    Keep(), hostname="127.0.0.1", port=int(port), tls_context=context, require_starttls=True, auth_required=True, authenticator=authenticate
)
controller.start()
sys.stdin.read()
controller.stop()
