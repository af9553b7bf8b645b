"""A hub of models on this machine's loopback: the few endpoints that huggingface_hub asks for models' files."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """Repositories in memory: ``repositories[name]`` is a list of commits, each a dict of files.

    Attributes:
        asked: ``(method, path)`` of every request.
        tokens: the Authorization headers that came.
        refuse: a status that every change is answered with.
        cut: names of files of which the last byte is not sent.
    """

    def __init__(self):
        self.repositories, self.asked, self.tokens, self.refuse, self.cut = {}, [], set(), None, set()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def files(self, name):
        return self.repositories[name][-1]

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @staticmethod
    def commit_id(files):
        return hashlib.sha1(b"".join(k.encode() + v for k, v in sorted(files.items()))).hexdigest()

    def _handler(hub):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, value, status=200, headers=(), body=None):
                body = json.dumps(value).encode() if body is None else body
                self.send_response(status)
                for key, text in headers:
                    self.send_header(key, text)
                if "Content-Length" not in dict(headers):
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def missing(self, what):
                self.answer({"error": what}, 404, [("X-Error-Code", what)])

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.note()
                if hub.refuse:
                    return self.answer({"error": "no"}, hub.refuse)
                path = self.path.partition("?")[0]
                if path == "/api/repos/create":
                    said = json.loads(body)
                    name = f"{said['organization']}/{said['name']}" if said.get("organization") else said["name"]
                    if name in hub.repositories:
                        return self.answer({"error": "there is one", "url": f"{hub.url}/{name}"}, 409)
                    hub.repositories[name] = [{".gitattributes": b""}]
                    return self.answer({"url": f"{hub.url}/{name}", "name": name})
                if path == "/api/validate-yaml":
                    return self.answer({})
                found = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", path)
                if found is None or found[1] not in hub.repositories:
                    return self.missing("RepoNotFound")
                if found[2] == "preupload":
                    names = [file["path"] for file in json.loads(body)["files"]]
                    kinds = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
                    return self.answer({"files": kinds})
                files = dict(hub.files(found[1]))
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "deletedFile":
                        del files[value["path"]]
                hub.repositories[found[1]].append(files)
                oid = hub.commit_id(files)
                self.answer({"commitUrl": f"{hub.url}/{found[1]}/commit/{oid}", "commitOid": oid})

            def note(self):
                hub.asked.append((self.command, self.path))
                hub.tokens.add(self.headers.get("Authorization"))

            def do_GET(self):
                self.note()
                path = self.path.partition("?")[0]
                info = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+?)(?:/revision/([\w.-]+))?", path)
                file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", path)
                found = info or file
                if found is None or found[1] not in hub.repositories:
                    return self.missing("RepoNotFound")
                commits = {hub.commit_id(files): files for files in hub.repositories[found[1]]}
                files = hub.files(found[1]) if found[2] in (None, "main") else commits.get(found[2])
                if files is None:
                    return self.missing("RevisionNotFound")
                if info:
                    listed = [{"rfilename": k, "size": len(v), "blobId": "0" * 40} for k, v in files.items()]
                    return self.answer({"id": found[1], "sha": hub.commit_id(files), "siblings": listed})
                body = files[found[3]][: -1 if found[3] in hub.cut else None]
                etag = f'"{hashlib.sha1(body).hexdigest()}"'
                headers = [("ETag", etag), ("X-Repo-Commit", hub.commit_id(files)), ("Content-Length", str(len(body)))]
                self.answer(None, headers=headers, body=body)

            do_HEAD = do_GET

        return Handler
