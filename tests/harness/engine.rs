//! The real Docker engines that `tests/engine/engine.sh` starts, found by the variables `LONGSHORE_ENGINE` and
//! `LONGSHORE_SWARM`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{folder, run_command, skip, told};

/// A running engine.
pub struct Engine {
    dir: PathBuf,
}

impl Engine {
    /// The engine that was started for this run; without one the test is skipped, which `.ci/run` makes a failure.
    pub fn find() -> Option<Engine> {
        Engine::named("LONGSHORE_ENGINE", "")
    }

    /// The one that is a Swarm, in a network namespace of its own.
    pub fn find_swarm() -> Option<Engine> {
        Engine::named("LONGSHORE_SWARM", " swarm")
    }

    fn named(variable: &str, kind: &str) -> Option<Engine> {
        let Some(dir) = std::env::var_os(variable).map(PathBuf::from) else {
            skip(&format!("no Docker engine: tests/engine/engine.sh start DIR{kind}, then {variable}=DIR"));
            return None;
        };
        assert!(dir.join("docker.sock").exists(), "{variable}={} has no engine", dir.display());
        Some(Engine { dir })
    }

    /// A `docker` that is still to be given its arguments.
    pub fn command(&self) -> Command {
        Command::new(self.dir.join("docker"))
    }

    /// Where it is asked.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.dir.join("dockerd.pid")).expect("a running engine has its pid file");
        text.trim().parse().expect("a number")
    }

    /// Builds `deploy/Dockerfile` around the static program that `LONGSHORE_PROGRAM` names; without one the test is
    /// skipped.
    pub fn build_longshore(&self, image: &str, version: &str, revision: &str) -> bool {
        let Some(program) = std::env::var_os("LONGSHORE_PROGRAM") else {
            skip("no static program for the image: LONGSHORE_PROGRAM=...; docs/production.md has the command");
            return false;
        };
        let context = folder();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let copied = run_command(Command::new("cp").arg("-r").arg(root.join("deploy")).arg(context.path()), b"");
        assert!(copied.status.success(), "{}", told(&copied));
        fs::copy(&program, context.path().join("deploy/image/longshore")).expect("LONGSHORE_PROGRAM can be copied");
        let context = context.path().display().to_string();
        let file = format!("{context}/deploy/Dockerfile");
        let (version, revision) = (format!("VERSION={version}"), format!("REVISION={revision}"));
        let about = ["--build-arg", &version, "--build-arg", &revision];
        let prebuilt = [&about[..], &["--build-arg", "PROGRAM=prebuilt", "-t", image, &context]].concat();
        self.build(&[&["-f", &file], &prebuilt[..]].concat());
        true
    }

    /// Docker's folder of containers.
    pub fn containers(&self) -> PathBuf {
        self.dir.join("data/containers")
    }

    /// Runs `docker` with these arguments; its standard output.
    pub fn docker(&self, args: &[&str]) -> String {
        let output = run_command(Command::new(self.dir.join("docker")).args(args), b"");
        assert!(output.status.success(), "docker {args:?}: {}", told(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Builds an image with BuildKit; `args` end with the context.
    pub fn build(&self, args: &[&str]) {
        let mut command = Command::new(self.dir.join("docker"));
        let output = run_command(command.env("DOCKER_BUILDKIT", "1").arg("build").args(args), b"");
        assert!(output.status.success(), "docker build {args:?}: {}", told(&output));
    }

    /// What `docker inspect` says of a container, at a JSON pointer.
    pub fn inspect(&self, id: &str, pointer: &str) -> Value {
        let text = self.docker(&["inspect", id]);
        let all: Value = serde_json::from_str(&text).expect("JSON");
        all[0].pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// A container's standard output and error.
    pub fn logs(&self, id: &str) -> String {
        told(&run_command(Command::new(self.dir.join("docker")).args(["logs", id]), b""))
    }

    /// Runs a container of the test image in the background, without a network.
    pub fn run(&self, name: &str, options: &[&str], command: &[&str]) -> Running<'_> {
        self.run_image(name, &[&["--network", "none"], options].concat(), "longshore-test:1", command)
    }

    /// The same with another image, and with the network that the options say.
    pub fn run_image(&self, name: &str, options: &[&str], image: &str, command: &[&str]) -> Running<'_> {
        let mut args = vec!["run", "-d", "--name", name];
        args.extend(options);
        args.push(image);
        args.extend(command);
        Running { engine: self, id: self.docker(&args) }
    }
}

/// A container that is removed with the test; if the test failed, its last lines are told first.
pub struct Running<'e> {
    engine: &'e Engine,
    /// 64 hex digits.
    pub id: String,
}

impl Running<'_> {
    /// Waits for its end; its exit code.
    pub fn wait(&self) -> String {
        self.engine.docker(&["wait", &self.id])
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let docker = |args: &[&str]| Command::new(self.engine.dir.join("docker")).args(args).output();
        if std::thread::panicking()
            && let Ok(output) = docker(&["logs", "--tail", "50", &self.id])
        {
            eprintln!("the last lines of container {}:\n{}", self.id, told(&output));
        }
        let _ = docker(&["rm", "-f", &self.id]);
    }
}

/// Whether a program is there.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(name).is_file())
}
