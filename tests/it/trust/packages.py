# Makes a tree of files that are a package index of each kind with one small package: argv[1] is where, argv[2] the site.
import base64, hashlib, io, json, os, sys, tarfile, zipfile

root, site = sys.argv[1], sys.argv[2]


def put(path, data):
    path = os.path.join(root, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def zipped(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return out.getvalue()


def tarred(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


# Python: the simple index and a wheel.
files = {
    "tiny.py": "WELCOME = 'welcome /pip'\n",
    "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
    "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
record = "".join(
    "%s,sha256=%s,%d\n"
    % (name, base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("="), len(text))
    for name, text in files.items()
)
wheel = zipped({**files, "tiny-1.0.dist-info/RECORD": record + "tiny-1.0.dist-info/RECORD,,\n"})
name = "tiny-1.0-py3-none-any.whl"
digest = hashlib.sha256(wheel).hexdigest()
put("wheels/" + name, wheel)
put("simple/tiny/index", f'<!DOCTYPE html><a href="https://{site}/wheels/{name}#sha256={digest}">{name}</a>')

# npm: what the registry says of the package, and its archive.
manifest = {"name": "tiny", "version": "1.0.0", "main": "tiny.js"}
archive = tarred({"package/package.json": json.dumps(manifest), "package/tiny.js": "module.exports = 'welcome /npm'\n"})
sha512 = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
dist = {"tarball": f"https://{site}/npm/tiny/-/tiny-1.0.0.tgz", "integrity": sha512}
about = {"name": "tiny", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": {**manifest, "dist": dist}}}
put("npm/tiny/-/tiny-1.0.0.tgz", archive)
put("npm/tiny/index", json.dumps(about))

# cargo: a sparse index and a crate.
crate = tarred({
    "tiny-1.0.0/Cargo.toml": '[package]\nname = "tiny"\nversion = "1.0.0"\nedition = "2021"\n',
    "tiny-1.0.0/src/lib.rs": 'pub const WELCOME: &str = "welcome /cargo";\n',
})
line = {"name": "tiny", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
line["cksum"] = hashlib.sha256(crate).hexdigest()
put("crates/tiny/1.0.0/download", crate)
put("index/config.json", json.dumps({"dl": f"https://{site}/crates"}))
put("index/ti/ny/tiny", json.dumps(line) + "\n")

# Go: what a module proxy says of one.
at = "go/m.example/tiny/@v/"
module = "module m.example/tiny\n"
put(at + "list", "v1.0.0\n")
put(at + "v1.0.0.info", json.dumps({"Version": "v1.0.0", "Time": "2020-01-01T00:00:00Z"}))
put(at + "v1.0.0.mod", module)
put(at + "v1.0.0.zip", zipped({
    "m.example/tiny@v1.0.0/go.mod": module,
    "m.example/tiny@v1.0.0/tiny.go": 'package tiny\n\nconst Welcome = "welcome /gomod"\n',
}))

# git, as a server of files has it.
put("git/info/refs", "0" * 39 + "1\trefs/heads/welcome\n")
put("git/HEAD", "ref: refs/heads/welcome\n")
