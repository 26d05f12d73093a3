"""How a program comes here, by its `from`, and the command that runs its client with arguments."""

import os
import shutil
import subprocess
from pathlib import Path

from checks import check
from packages import apt_install, npm_install, python_install
from places import CACHE

HERE = Path(__file__).resolve().parent


def place(program):
    return CACHE / "programs" / program["name"]


def install(program):
    """Whether it is here in the version that the table names."""
    apt_install(*program.get("debian", []))
    directory, packages = place(program), program["packages"]
    source = HERE / program.get("source", "")
    match program.get("from"):
        case None:
            python_install(directory, packages)
            if "requirements" in program:
                [path] = directory.glob(f"lib/*/site-packages/{program['requirements']}")
                pip = [directory / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
                subprocess.run([*pip, "--requirement", path], check=True)
        case "npm":
            npm_install(directory, packages)
        case "debian":
            for name, version in (package.split("=") for package in packages):
                apt_install(name)
                installed = subprocess.check_output(["dpkg-query", "--show", "--showformat=${Version}", name], text=True)
                if not check(f"{name} is version {version}", installed.startswith(version), installed):
                    return False
        case "go install":
            _need("go", "golang-go")
            tags = [f"-tags={program['tags']}"] if "tags" in program else []
            environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": str(directory / "bin")}
            subprocess.run(["go", "install", *tags, *packages], check=True, env=environment)
        case "go":
            _need("go", "golang-go")
            if not _pinned(source / "go.mod", [package.replace("@", " ") for package in packages]):
                return False
            build = ["go", "build", "-C", source, "-o", directory / "client", "."]
            subprocess.run(build, check=True, env=os.environ | {"CGO_ENABLED": "0"})
        case "cargo":
            if not _pinned(source / "Cargo.toml", ['{} = {{ version = "={}"'.format(*package.split("@")) for package in packages]):
                return False
            build = ["cargo", "build", "--quiet", "--locked", "--manifest-path", source / "Cargo.toml"]
            subprocess.run(build, check=True, env=os.environ | {"CARGO_TARGET_DIR": str(directory / "target")})
        case "maven":
            _need("javac", "default-jdk-headless")
            _need("mvn", "maven")
            line = "<artifactId>{}</artifactId>\n      <version>{}</version>"
            if not _pinned(source / "pom.xml", [line.format(*package.split("@")) for package in packages]):
                return False
            maven = ["mvn", "--quiet", "--batch-mode", "--file", source / "pom.xml", "dependency:copy-dependencies"]
            subprocess.run([*maven, f"-DoutputDirectory={directory / 'lib'}"], check=True, stdout=subprocess.DEVNULL)
            javac = ["javac", "-cp", f"{directory / 'lib'}/*", "-d", directory, source / "Client.java"]
            subprocess.run(javac, check=True)
    return True


def command(program, clients):
    """`clients` is where other users find clients.py and clients.cjs."""
    directory = place(program)
    client = {
        None: [directory / "bin/python", "-I", "-W", "ignore", clients / "clients.py"],
        "debian": ["/usr/bin/python3", "-I", clients / "clients.py"],
        "go install": ["/usr/bin/python3", "-I", clients / "clients.py"],
        "npm": ["node", clients / "clients.cjs"],
        "go": [directory / "client"],
        "cargo": [directory / "target/debug/client"],
        "maven": ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{directory}:{directory / 'lib'}/*", "Client"],
    }
    return [*client[program.get("from")], program["name"]]


def _need(tool, package):
    if not shutil.which(tool):
        apt_install(package)


def _pinned(path, lines):
    """The file that pins the packages has the versions that the table names."""
    text = path.read_text()
    return all([check(f"{path.relative_to(HERE)} has {' '.join(line.split())}", line in text, text) for line in lines])
