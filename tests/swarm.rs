//! `deploy/stack.yaml` on a real Swarm of one node: agent, three receivers behind nginx or haproxy, and what
//! docs/production.md says about updates, run as it stands there, under eight senders that want acks. And
//! `deploy/compose.yaml` with Debian's docker-compose, since that engine has bridges and published ports.
//!
//! `LONGSHORE_SWARM` names the engine (`tests/engine/engine.sh start DIR swarm`), `LONGSHORE_PROGRAM` the static program.
//! What is changed of `deploy/`: times of updates by the stack's own variables, and a `load_module` line, since Debian's
//! nginx has its stream module apart. Names are `tasks.proxy`: virtual addresses need the kernel's ip_vs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

use crate::harness::engine::{Engine, Running, has_program};
use crate::harness::http::{Answer, Request, Server};
use crate::harness::records::at;
use crate::harness::{folder, run_command, skip, told, wait_for};

const PATIENCE: Duration = Duration::from_secs(180);
const STACK: &str = "longshore";
/// What the secret `ingest_token` holds.
const TOKEN: &str = "canary-5afe";
/// And what is put in its place.
const NEXT_TOKEN: &str = "canary-5afe-too";
const SENDERS: usize = 8;
/// Records of one frame, and so of what a cut connection may bring twice.
const FRAME: usize = 200;

/// Records a second of one sender.
const RATE: usize = 4000;

/// How often each record came: by sender, by its number.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

/// What must never come: requests without the token, and lines of longshore's own log.
#[derive(Clone, Default)]
struct Wrong {
    all: Arc<Mutex<Vec<String>>>,
    /// The token was replaced: the one before must not come any more.
    rotated: Arc<AtomicBool>,
}

impl Wrong {
    fn take(&self, request: &Request) {
        let mut wrong = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let rotated = self.rotated.load(Ordering::Relaxed);
        let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if token != NEXT_TOKEN && (rotated || token != TOKEN) && wrong.len() < 10 {
            wrong.push(format!("without the token: {:?}", request.headers));
        }
        let text = String::from_utf8_lossy(&request.body);
        // Of the agent's own container, or of a receiver or proxy that the label leaves out.
        let own = text.lines().filter(|line| line.contains(&format!("\"name\":\"{STACK}_")));
        wrong.extend(own.take(10).map(str::to_owned));
    }

    fn assert_none(&self) {
        let wrong = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

impl Seen {
    fn take(&self, body: &[u8]) {
        let text = std::str::from_utf8(body).expect("UTF-8");
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.lines() {
            let part = |key: &str, end: char| {
                let from = line.find(key)? + key.len();
                line[from..].split(end).next()
            };
            let (Some(sender), Some(seq)) = (part("\"p\":\"", '"'), part("\"seq\":", ',')) else { continue };
            let seq: usize = seq.parse().expect("a number");
            if !seen.contains_key(sender) {
                seen.insert(sender.to_owned(), Vec::new());
            }
            let counts = seen.get_mut(sender).expect("just put there");
            if counts.len() <= seq {
                counts.resize(seq + 1, 0);
            }
            counts[seq] = counts[seq].saturating_add(1);
        }
    }

    fn repeats(&self) -> usize {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().flatten().map(|count| usize::from(count.saturating_sub(1))).sum()
    }

    fn total(&self) -> usize {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.values().flatten().filter(|count| **count > 0).count()
    }

    /// How many of a sender's first so many records did not come.
    fn missing(&self, sender: &str, sent: usize) -> usize {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let came = seen.get(sender).map_or(0, |counts| counts.iter().take(sent).filter(|count| **count > 0).count());
        sent - came
    }
}

/// A listener within the engine's network namespace, which containers reach through Docker's gateway.
fn listener(engine: &Engine) -> TcpListener {
    let space = fs::File::open(format!("/proc/{}/ns/net", engine.pid())).expect("root may look");
    let bound = std::thread::spawn(move || {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("nobody else listens there")
    });
    bound.join().expect("the thread binds")
}

/// The address that containers of any network reach this namespace by.
fn gateway(engine: &Engine) -> String {
    engine.docker(&["network", "inspect", "docker_gwbridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"])
}

/// The deployed stack; removed with the test.
struct Stack<'e> {
    engine: &'e Engine,
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        let _ = self.engine.command().args(["stack", "rm", STACK]).output();
        let _ = self.engine.command().args(["secret", "rm", "next_token"]).output();
    }
}

impl Stack<'_> {
    /// Changes a service as the documentation does, and waits for how it ends.
    fn update(&self, service: &str, change: &[&str], end: &str) {
        let name = format!("{STACK}_{service}");
        self.engine
            .docker(&[&["service", "update", "--detach", "--quiet", "--no-resolve-image"], change, &[&name]].concat());
        wait_for(&format!("{name} {change:?}: {end}"), PATIENCE, || {
            let state = self.engine.inspect(&name, "/UpdateStatus/State");
            assert!(
                state == end || !["paused", "rollback_completed", "rollback_paused"].iter().any(|bad| state == *bad),
                "{name} {change:?}: {state}; {}\n{}",
                self.engine.docker(&["service", "ps", "--no-trunc", &name]),
                self.engine.docker(&["service", "logs", "--tail", "20", &name])
            );
            state == end
        });
    }

    fn scale(&self, service: &str, replicas: usize) {
        self.engine.docker(&["service", "scale", "--detach", &format!("{STACK}_{service}={replicas}")]);
        self.wait_running(service, replicas);
    }

    fn wait_running(&self, service: &str, replicas: usize) {
        let (name, wanted) = (format!("{STACK}_{service}"), format!("{replicas}/{replicas}"));
        let list = ["service", "ls", "--filter", &format!("name={name}"), "--format", "{{.Name}} {{.Replicas}}"];
        wait_for(&format!("{name} {wanted}"), PATIENCE, || {
            self.engine.docker(&list).lines().any(|line| line.starts_with(&format!("{name} {wanted}")))
                && self.containers(service, true).len() == replicas
        });
    }

    /// Containers of a service; `running` ones only, or all that there are.
    fn containers(&self, service: &str, running: bool) -> Vec<String> {
        let filter = format!("label=com.docker.swarm.service.name={STACK}_{service}");
        let all = if running { "--filter=status=running" } else { "--all" };
        let ids = self.engine.docker(&["ps", "--quiet", "--no-trunc", all, "--filter", &filter]);
        ids.lines().map(str::to_owned).collect()
    }

    /// Records that each running task of a service received; each ledger has to close.
    fn received(&self, service: &str) -> Vec<u64> {
        let config = "/etc/longshore/longshore.toml";
        let audit = |id: &String| {
            let args = ["exec", id, "/longshore", "audit", "--config", config, "--format", "json"];
            let text = self.engine.docker(&args);
            let ledger: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(ledger["closes"], true, "{ledger:#}");
            ledger["inputs"][0]["received"].as_u64().expect("a number")
        };
        self.containers(service, true).iter().map(audit).collect()
    }

    /// The versions that a service's running tasks have.
    fn images(&self, service: &str) -> Vec<String> {
        let ids = self.containers(service, true);
        let mut images: Vec<String> = ids
            .iter()
            .map(|id| self.engine.inspect(id, "/Config/Image").as_str().unwrap_or_default().to_owned())
            .collect();
        images.dedup();
        images
    }
}

fn deploy<'e>(engine: &'e Engine, dir: &Path, port: u16) -> Stack<'e> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let copied = run_command(std::process::Command::new("cp").arg("-r").arg(source).arg(dir), b"");
    assert!(copied.status.success(), "{}", told(&copied));
    let conf = dir.join("deploy/proxy/nginx.conf");
    let text = fs::read_to_string(&conf).expect("it is there");
    fs::write(&conf, format!("load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n{text}")).expect("writable");
    fs::write(dir.join("token"), TOKEN).expect("writable");
    let mut command = engine.command();
    command.args(["stack", "deploy", "--resolve-image=never", "-c"]).arg(dir.join("deploy/stack.yaml")).arg(STACK);
    command.env("INGEST_URL", format!("http://{}:{port}/ingest", gateway(engine)));
    command.env("INGEST_TOKEN_FILE", dir.join("token")).env("DOCKER_CONTAINERS", engine.containers());
    command.env("LONGSHORE_IMAGE", "longshore:1").env("LONGSHORE_NEXT_IMAGE", "longshore:2");
    command.env("NGINX_IMAGE", "longshore-nginx:1").env("UPDATE_DELAY", "1s").env("UPDATE_MONITOR", "5s");
    let output = run_command(&mut command, b"");
    assert!(output.status.success(), "{}", told(&output));
    Stack { engine }
}

/// A container that sends numbered records, one frame at a time and each until it is acked, until `/stop/now` is there;
/// then it writes their number to `/stop/NAME` and exits 0 if all were acked.
fn sender<'e>(engine: &'e Engine, name: &str, stop: &Path) -> Running<'e> {
    let script = format!(
        r#"awk 'BEGIN {{ while ((getline line < "/stop/now") < 0) for (i = 0; i < 100; i++) printf "{{\"p\":\"{name}\",\"seq\":%d,\"pad\":\"0123456789\"}}\n", n++; print n > "/stop/{name}" }}' |
           /longshore send --to tcp://tasks.proxy:24224 --tag app.{name} --batch {FRAME} --rate {RATE}"#
    );
    let options = ["--network", "longshore_front", "--volume", &format!("{}:/stop", stop.display())];
    engine.run_image(&format!("sender-{name}"), &options, "longshore-sender:1", &["sh", "-c", &script])
}

/// haproxy instead of nginx: finds the three receivers, sends through them, and changes a weight while it runs.
fn haproxy(engine: &Engine, dir: &Path) {
    let tmp = dir.join("haproxy");
    fs::create_dir(&tmp).expect("writable");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).expect("ours");
    let options = [
        "--network=longshore_back",
        "--user=65532:65532",
        "--read-only",
        "--cap-drop=ALL",
        &format!("--volume={}/deploy/proxy/haproxy.cfg:/etc/haproxy/haproxy.cfg:ro", dir.display()),
        &format!("--volume={}:/tmp", tmp.display()),
    ];
    let command = ["haproxy", "-W", "-db", "-f", "/etc/haproxy/haproxy.cfg"];
    let proxy = engine.run_image("haproxy", &options, "longshore-haproxy:1", &command);
    let ask = |what: &str| -> Option<String> {
        let mut socket = UnixStream::connect(tmp.join("haproxy.sock")).ok()?;
        socket.write_all(format!("{what}\n").as_bytes()).ok()?;
        let mut text = String::new();
        socket.read_to_string(&mut text).ok()?;
        Some(text)
    };
    // CSV: name in the second column, state and weight in the 18th and 19th.
    let server = |name: &str| -> Option<(String, String)> {
        let text = ask("show stat")?;
        let row = text.lines().find(|line| line.starts_with(&format!("receivers,{name},")))?;
        let columns: Vec<&str> = row.split(',').collect();
        Some((columns[17].to_owned(), columns[18].to_owned()))
    };
    wait_for("three receivers that are ready", PATIENCE, || {
        (1..=3).all(|n| server(&format!("receiver{n}")).is_some_and(|(state, weight)| state == "UP" && weight == "100"))
    });
    let mut send = engine.command();
    send.args(["run", "--rm", "--network=longshore_back", "longshore:1", "send", "--to", "haproxy:24224"]);
    let output = run_command(send.args(["--count=10000", "--connections=6", "--compress=zstd"]), b"");
    assert!(output.status.success(), "{}\n{}", told(&output), engine.logs(&proxy.id));
    ask("set weight receivers/next1 10");
    let weight = ask("get weight receivers/next1").expect("it answers");
    assert!(weight.starts_with("10 (initial 0)"), "{weight}");
}

#[test]
fn rolling_update_rollback_canary_and_blue_green_lose_no_record() {
    let Some(engine) = Engine::find_swarm() else { return };
    if !engine.build_longshore("longshore:1", "1", "") || !engine.build_longshore("longshore:2", "2", "") {
        return;
    }
    let dir = folder();
    let build = |image: &str, lines: &str| {
        let context = folder();
        fs::write(context.path().join("Dockerfile"), lines).expect("writable");
        engine.build(&["-t", image, &context.path().display().to_string()]);
    };
    build("longshore-sender:1", "FROM longshore-test:1\nCOPY --from=longshore:1 /longshore /longshore\n");
    build("longshore:broken", "FROM longshore:2\nENTRYPOINT [\"/longshore\", \"run\", \"--config\", \"/nowhere\"]\n");
    let seen = Seen::default();
    let wrong = Wrong::default();
    let (taker, judge) = (seen.clone(), wrong.clone());
    let server = Server::on(listener(&engine), false, move |request, _| {
        taker.take(&request.body);
        judge.take(request);
        Answer::status(200)
    });
    let stack = deploy(&engine, dir.path(), server.port);
    stack.wait_running("receiver", 3);
    stack.wait_running("proxy", 2);
    stack.wait_running("agent", 1);

    let stop = dir.path().join("stop");
    fs::create_dir(&stop).expect("writable");
    let names: Vec<String> = (0..SENDERS).map(|n| format!("p{n}")).collect();
    let senders: Vec<Running<'_>> = names.iter().map(|name| sender(&engine, name, &stop)).collect();
    let app = engine.run(
        "app",
        &[],
        &["sh", "-c", "seq 1 1000 | awk '{printf \"{\\\"p\\\":\\\"file\\\",\\\"seq\\\":%d,\\\"x\\\":1}\\n\", $1 - 1}'"],
    );
    assert_eq!(app.wait(), "0");
    wait_for("the agent's lines by way of the proxy", PATIENCE, || seen.missing("file", 1000) == 0);

    // Connections that this step cuts; each may bring its last frame twice.
    let mut bound = 0;
    let mut from = (Instant::now(), seen.total(), seen.repeats());
    let mut step = |what: &str, cuts: usize| {
        // Everybody is connected again and sends.
        wait_for("records after the step", PATIENCE, || seen.total() > from.1 + 4 * SENDERS * FRAME);
        bound += cuts * FRAME;
        let now = (Instant::now(), seen.total(), seen.repeats());
        println!(
            "{what}: {:.1} s, {} records, {} came twice (bound {bound})",
            (now.0 - from.0).as_secs_f64(),
            now.1 - from.1,
            now.2 - from.2
        );
        assert!(now.2 <= bound, "{what}: {} repeated, bound {bound}", now.2);
        from = now;
    };
    step("nothing", 0);

    let victim = stack.containers("receiver", true).swap_remove(0);
    engine.docker(&["kill", "--signal=KILL", &victim]);
    wait_for("the end of a killed task", PATIENCE, || !stack.containers("receiver", true).contains(&victim));
    stack.wait_running("receiver", 3);
    // And what it delivered since it last saved its cursor, a second after it moved; two, on a busy machine.
    step("a receiver that is killed", SENDERS + 2 * SENDERS * RATE / FRAME);

    stack.update("receiver", &["--image", "longshore:2"], "completed");
    assert_eq!(stack.images("receiver"), ["longshore:2"]);
    step("rolling update", 3 * SENDERS);
    stack.received("receiver");

    haproxy(&engine, dir.path());

    stack.update("receiver", &["--image", "longshore:broken"], "rollback_completed");
    stack.wait_running("receiver", 3);
    assert_eq!(stack.images("receiver"), ["longshore:2"], "back to what it was");
    step("an update that fails and rolls back", 2 * SENDERS);

    stack.scale("receiver-next", 1);
    stack.update("proxy", &["--env-add", "NEXT_PERCENT=10"], "completed");
    // Short connections, since eight long ones may well all miss one in ten.
    let probe = "for n in $(seq 0 59); do echo \"{\\\"p\\\":\\\"probe\\\",\\\"seq\\\":$n,\\\"x\\\":1}\" | /longshore send --to tcp://tasks.proxy:24224 --tag probe 2>/dev/null || exit 1; done";
    let probes =
        engine.run_image("probe", &["--network", "longshore_front"], "longshore-sender:1", &["sh", "-c", probe]);
    assert_eq!(probes.wait(), "0");
    let canary: u64 = stack.received("receiver-next").iter().sum();
    let others: u64 = stack.received("receiver").iter().sum();
    assert!(
        canary > 0 && canary < others,
        "1 of 10 connections: {canary} records to the canary, {others} to the others"
    );
    step("canary, 1 of 10", 2 * SENDERS);
    stack.update("proxy", &["--env-add", "NEXT_PERCENT=0"], "completed");
    stack.scale("receiver-next", 0);
    step("the canary taken back", 2 * SENDERS + SENDERS);
    // By hand, in the middle of an update.
    let name = format!("{STACK}_receiver");
    engine.docker(&["service", "update", "--detach", "--quiet", "--no-resolve-image", "--image", "longshore:1", &name]);
    wait_for("the first task of the update", PATIENCE, || stack.images("receiver").contains(&"longshore:1".to_owned()));
    engine.docker(&["service", "rollback", "--detach", "--quiet", &name]);
    wait_for("a rollback by hand", PATIENCE, || engine.inspect(&name, "/UpdateStatus/State") == "rollback_completed");
    stack.wait_running("receiver", 3);
    assert_eq!(stack.images("receiver"), ["longshore:2"]);
    step("an update that is taken back by hand", 2 * SENDERS);

    stack.scale("receiver-next", 3);
    stack.update("proxy", &["--env-add", "NEXT_PERCENT=100"], "completed");
    stack.scale("receiver", 0);
    step("blue-green", 3 * SENDERS);
    // Its version becomes the ordinary one, and there is a next one again.
    // Without tasks there is no state to wait for.
    engine.docker(&["service", "update", "--detach", "--quiet", "--no-resolve-image", "--image", "longshore:1", &name]);
    stack.scale("receiver", 3);
    assert_eq!(stack.images("receiver"), ["longshore:1"]);
    stack.update("proxy", &["--env-add", "NEXT_PERCENT=0"], "completed");
    stack.scale("receiver-next", 0);
    step("the next version made the ordinary one", 3 * SENDERS);
    stack.received("receiver");
    stack.scale("receiver-next", 3);
    stack.update("proxy", &["--env-add", "NEXT_PERCENT=100"], "completed");
    stack.scale("receiver", 0);
    step("blue-green once more", 3 * SENDERS);
    let before = stack.received("receiver-next");
    wait_for("records by way of green", PATIENCE, || stack.received("receiver-next") > before);

    // Swarm's secrets never change; a service gets another one of the same name.
    let file = dir.path().join("next-token");
    fs::write(&file, NEXT_TOKEN).expect("writable");
    engine.docker(&["secret", "create", "next_token", &file.display().to_string()]);
    let add = "source=next_token,target=ingest_token,uid=65532,gid=65532,mode=0400";
    stack.update("receiver-next", &["--secret-rm", "longshore_ingest_token", "--secret-add", add], "completed");
    wrong.rotated.store(true, Ordering::Relaxed);
    step("another token", 3 * SENDERS);

    fs::write(stop.join("now"), "").expect("writable");
    for (name, sender) in names.iter().zip(&senders) {
        assert_eq!(sender.wait(), "0", "not all of {name} was acked: {}", engine.logs(&sender.id));
        let text = fs::read_to_string(stop.join(name)).expect("the sender says how many");
        let sent = text.trim().parse().expect("a number");
        wait_for(&format!("all {sent} records of {name}"), PATIENCE, || seen.missing(name, sent) == 0);
    }
    assert_eq!(seen.missing("probe", 60), 0);
    // The loop guard: each of them has said something that an agent could have shipped.
    for service in ["agent", "receiver-next"] {
        let said = stack.containers(service, true).iter().any(|id| engine.logs(id).contains("\"level\""));
        assert!(said, "{service} has a log");
    }
    wrong.assert_none();
    stack.received("receiver-next");
    // What blue left behind: an ended ledger that closes, and exit code 0, so nothing waits in its disk log.
    for id in stack.containers("receiver", false) {
        let image = engine.inspect(&id, "/Config/Image");
        if image != "longshore:broken" && id != victim {
            assert_eq!(engine.inspect(&id, "/State/ExitCode"), 0, "{}", engine.logs(&id));
        }
    }
    for slot in 1..=3 {
        let deploy = dir.path().join("deploy").display().to_string();
        let text = engine.docker(&[
            "run",
            "--rm",
            "--network=none",
            "--env=INGEST_URL=http://127.0.0.1:1/",
            &format!("--volume={deploy}/receiver.toml:/etc/longshore/longshore.toml:ro"),
            &format!("--volume={}/token:/run/secrets/ingest_token:ro", dir.path().display()),
            &format!("--volume=longshore_receiver-{slot}:/var/lib/longshore"),
            "longshore:2",
            "audit",
            "--config",
            "/etc/longshore/longshore.toml",
            "--format",
            "json",
        ]);
        let ledger: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(ledger["closes"], true, "{ledger:#}");
    }
}

#[test]
fn the_compose_file_ships_both_kinds_of_applications() {
    let Some(engine) = Engine::find_swarm() else { return };
    if !has_program("docker-compose") {
        skip("no docker-compose: Debian's package docker-compose");
        return;
    }
    if !engine.build_longshore("longshore:compose", "1", "") {
        return;
    }
    let dir = folder();
    let server = Server::on(listener(&engine), true, |_, _| Answer::status(200));
    fs::write(dir.path().join("token"), "canary-5afe").expect("writable");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/compose.yaml");
    let compose = |words: &[&str]| {
        let mut command = std::process::Command::new("docker-compose");
        command.arg("-f").arg(&file).args(["-p", "one-host"]).args(words);
        command.env("DOCKER_HOST", format!("unix://{}", engine.socket().display()));
        command.env("INGEST_URL", format!("http://{}:{}/ingest", gateway(&engine), server.port));
        command.env("INGEST_TOKEN_FILE", dir.path().join("token")).env("DOCKER_CONTAINERS", engine.containers());
        command.env("LONGSHORE_IMAGE", "longshore:compose").env("APP_IMAGE", "longshore-test:1");
        run_command(&mut command, b"")
    };
    let output = compose(&["up", "-d", "--no-build"]);
    assert!(output.status.success(), "{}", told(&output));
    let from = |part: &str| {
        let name = |record: &Value| at(record, "container.name").and_then(Value::as_str).unwrap_or_default().to_owned();
        server.accepted().iter().filter(|record| name(record).contains(part) && record["n"].is_u64()).count()
    };
    wait_for("records of the fluentd driver and of json-file", PATIENCE, || {
        from("app-forward") > 2 && from("app-file") > 2
    });
    // The loop guard: the tailer has a log, which is not shipped; the receiver's is, and does not grow by being shipped.
    let logs = compose(&["logs", "--no-color", "receiver", "tailer"]);
    assert!(told(&logs).lines().any(|line| line.contains("tailer") && line.contains("\"level\"")), "{}", told(&logs));
    let lines_of = |part: &str| {
        let name = |record: &Value| at(record, "container.name").and_then(Value::as_str).unwrap_or_default().to_owned();
        server.accepted().iter().filter(|record| name(record).contains(part)).count()
    };
    assert_eq!(lines_of("tailer"), 0);
    let (before, shipped) = (lines_of("receiver"), from("app-file"));
    wait_for("more records", PATIENCE, || from("app-file") > shipped + 5);
    assert!(lines_of("receiver") <= before + 2, "{before} lines of the receiver's log became {}", lines_of("receiver"));
    for (request, _) in server.requests() {
        assert_eq!(request.header("authorization"), Some("Bearer canary-5afe"), "{:?}", request.headers);
    }
    let output = compose(&["down", "-v", "-t", "30"]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(!told(&logs).contains("canary-5afe"), "{}", told(&logs));
}
