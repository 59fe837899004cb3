//! The image that `deploy/Dockerfile` makes: its size, what it says of itself, what is in it and what is not, and what the
//! program makes of the limits of a container. Where it is run, and what is skipped: `deploy`.

use serde_json::Value;

use crate::deploy::{IMAGE, REVISION, engine, files, refs};
use crate::engine::unique;
use crate::harness::{folder, run_command, told};

#[test]
fn the_image_is_small_and_says_what_it_is() {
    let Some(engine) = engine() else { return };
    let image: Value = serde_json::from_str(&engine.docker(&["image", "inspect", IMAGE])).expect("JSON");
    let image = &image[0];
    let size = image["Size"].as_u64().expect("a size");
    assert!(size < 15_000_000, "{size} bytes");
    assert_eq!(image["Config"]["User"], "65532:65532");
    let label = |name: &str| &image["Config"]["Labels"][format!("org.opencontainers.image.{name}")];
    assert_eq!(label("title"), "longshore");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("revision"), REVISION);
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    assert!(label("description").as_str().is_some_and(|text| text.len() > 20));
    let tags: Vec<&str> = image["RepoTags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(!tags.is_empty() && tags.iter().all(|tag| !tag.ends_with(":latest")), "{tags:?}");
    assert_eq!(image["Config"]["Healthcheck"]["Test"][1], "/longshore");
    let version = engine.docker(&["run", "--rm", "--network=none", IMAGE, "--version"]);
    assert!(version.starts_with(&format!("longshore {}", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn the_image_holds_the_program_and_what_looks_up_names_and_nothing_else() {
    let Some(engine) = engine() else { return };
    let name = unique("contents");
    engine.docker(&["create", "--name", &name, "--network=none", IMAGE]);
    let tar = folder();
    let tar = tar.path().join("image.tar");
    engine.docker(&["export", "--output", &tar.display().to_string(), &name]);
    engine.docker(&["rm", &name]);
    let listed = run_command(std::process::Command::new("tar").arg("-tf").arg(&tar), b"");
    assert!(listed.status.success(), "{}", told(&listed));
    let listed = String::from_utf8(listed.stdout).expect("UTF-8");
    // What the engine puts into every container.
    let engines = [".dockerenv", "dev/", "proc/", "sys/", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"];
    let mut found: Vec<&str> = listed.lines().filter(|path| !engines.iter().any(|own| path.starts_with(own))).collect();
    found.sort_unstable();
    // Certificates are in the program.
    let expected = [
        "etc/",
        "etc/group",
        "etc/longshore/",
        "etc/longshore/.keep",
        "etc/nsswitch.conf",
        "etc/passwd",
        "longshore",
        "var/",
        "var/lib/",
        "var/lib/longshore/",
        "var/lib/longshore/.keep",
    ];
    assert_eq!(found, expected);
}

#[test]
fn workers_follow_the_quota_and_a_limit_that_is_too_low_is_refused_in_one_line() {
    let Some(engine) = engine() else { return };
    let dir = folder();
    let files = files(dir.path(), "receiver.toml", &[]);
    let check = |limits: &[&str]| {
        let options = files.options("http://127.0.0.1:1/");
        let words = [&["run", "--rm", "--network=none"], limits, &refs(&options)[..]].concat();
        let command = ["check", "--explain", "/etc/longshore/longshore.toml"];
        let mut docker = engine.command();
        let output = run_command(docker.args(words).arg(IMAGE).args(command), b"");
        (output.status.code(), told(&output))
    };
    let (code, text) = check(&["--memory=64m", "--cpus=1"]);
    assert_eq!(code, Some(0), "{text}");
    let has = |setting: &str| text.lines().any(|line| line.starts_with(setting));
    assert!(has("workers = 1 "), "a quota of one core on a machine of several: {text}");
    assert!(has("memory = \"46976160B\""), "70 % of 64 MiB: {text}");
    let (code, text) = check(&["--memory=20m", "--cpus=1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the cgroup's limit of 20MiB is below 24MiB, the least that longshore runs in"), "{text}");
}

/// The engine's test image has a shell and nothing to build with: it stands for a builder without python3.
#[test]
fn a_build_from_source_ends_at_once_where_the_list_of_dependencies_can_not_be_embedded() {
    let Some(engine) = engine() else { return };
    let root = env!("CARGO_MANIFEST_DIR");
    let mut docker = engine.command();
    docker.env("DOCKER_BUILDKIT", "1").args(["build", "--network=none", "--build-arg=BUILDER=longshore-test:1"]);
    let file = format!("{root}/deploy/Dockerfile");
    let output = run_command(docker.args(["-t", "longshore:never", "-f", &file, root]), b"");
    assert!(!output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("the builder has no python3"), "{}", told(&output));
}
