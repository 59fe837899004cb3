//! The real Docker engine that `tests/engine/engine.sh` starts, found by the variable `LONGSHORE_ENGINE`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{run_command, skip, told};

/// A running engine.
pub struct Engine {
    dir: PathBuf,
}

impl Engine {
    /// The engine that was started for this run; without one the test is skipped, which `.ci/run` makes a failure.
    pub fn find() -> Option<Engine> {
        let Some(dir) = std::env::var_os("LONGSHORE_ENGINE").map(PathBuf::from) else {
            skip("no Docker engine: tests/engine/engine.sh start DIR, then LONGSHORE_ENGINE=DIR");
            return None;
        };
        assert!(dir.join("docker.sock").exists(), "LONGSHORE_ENGINE={} has no engine", dir.display());
        Some(Engine { dir })
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

/// A container that is removed with the test.
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
        let _ = Command::new(self.engine.dir.join("docker")).args(["rm", "-f", &self.id]).output();
    }
}

/// Whether a program is there.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| Path::new(&folder).join(name).is_file())
}
