//! Append-only storage: what a host's own credential may do is add. It cannot forget or prune what is there, the host that maintains
//! the repository can, by another port of the same storage. With Debian's rest-server and the newest restic that is there (0.14
//! tries a refused removal for 40 seconds).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::elected;
use crate::harness::{Fleet, PASSWORD, Process, eventually, free_port, restics, text};

const OF_HOST: (&str, &str) = ("web-1-may-add", "web-1:{SHA}FoPCxzaRr/trk0NEEJfBU0Z0d1g=\n");
const OF_ADMIN: (&str, &str) = ("admin-may-remove", "admin:{SHA}zhDsMqdAQzxd5fHNj8Kv+WX2+jQ=\n");

/// rest-server over the fleet's storage.
fn serve(fleet: &Fleet, program: &str, users: &str, more: &[&str]) -> (Process, u16) {
    let port = free_port();
    let (listen, users, path) = (format!("127.0.0.1:{port}"), fleet.path(users), fleet.path("storage"));
    let arguments = ["--path", text(&path), "--listen", &listen, "--htpasswd-file", text(&users)];
    let process = Process::start(program, &[&arguments[..], more].concat(), &fleet.path("rest.log"), &[]);
    eventually("rest-server listens", Duration::from_secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
    });
    (process, port)
}

/// What the storage answers to a user who wants to remove this file.
fn remove(port: u16, user: &str, file: &Path) -> String {
    let id = text(Path::new(file.file_name().expect("a name"))).to_owned();
    let url = format!("http://127.0.0.1:{port}/web-1/snapshots/{id}");
    let arguments = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", "-u", user, &url];
    String::from_utf8_lossy(&Command::new("curl").args(arguments).output().expect("curl runs").stdout).into_owned()
}

fn files(fleet: &Fleet, of: &str) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = fs::read_dir(fleet.path("storage/web-1").join(of))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| {
            if path.is_dir() {
                fs::read_dir(path).expect("list").map(|e| e.expect("e").path()).collect()
            } else {
                vec![path]
            }
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_host_cannot_remove_what_it_wrote_and_the_maintenance_host_can() {
    let Ok(rest_server) = std::env::var("RESTIC_MANAGER_TEST_REST_SERVER") else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "CI has rest-server: tests/tools/get-restic --rest-server"
        );
        eprintln!(
            "not run: RESTIC_MANAGER_TEST_REST_SERVER names no rest-server (tests/tools/get-restic FOLDER --rest-server)"
        );
        return;
    };
    let newest = restics().pop().expect("one at least");
    let fleet = Fleet::new();
    fs::create_dir(fleet.path("storage")).expect("a directory");
    fleet.write("hosts.htpasswd", OF_HOST.1);
    fleet.write("admin.htpasswd", OF_ADMIN.1);
    let (_adding, adds) = serve(&fleet, &rest_server, "hosts.htpasswd", &["--append-only", "--private-repos"]);
    let (_removing, removes) = serve(&fleet, &rest_server, "admin.htpasswd", &[]);
    fleet.write("secrets/rest-web-1", OF_HOST.0);
    fleet.write("secrets/rest-admin", OF_ADMIN.0);
    fleet.write(
        "config/repositories/main.toml",
        &format!(
            "url = \"rest:http://127.0.0.1:{adds}/{{host}}/\"\nusername = \"{{host}}\"\ncredential = {{ file = \"../secrets/rest-{{host}}\" }}\npassword = {{ file = \"../secrets/{{host}}\" }}\n\
             [maintenance]\nhost = \"backup-1\"\nurl = \"rest:http://127.0.0.1:{removes}/{{host}}/\"\nusername = \"admin\"\ncredential = {{ file = \"../secrets/rest-admin\" }}\n\
             forget = \"0 4 1 1 *\"\nprune = {{ cron = \"0 5 1 1 *\", max_unused = \"0\" }}\n"
        ),
    );
    fleet.write("config/hosts/backup-1.toml", "timezone = \"UTC\"\n");
    let file = fleet.read("config/hosts/web-1.toml").replace("keep_last = 3", "keep_last = 1");
    fleet.write("config/hosts/web-1.toml", &file);
    let fleet = fleet.start(&newest);
    let run = |body: &str, status: &str| {
        let job = fleet.run_job(body);
        assert_eq!(job["status"], status, "{body}: {job}");
        job
    };

    run(r#"{"kind":"init"}"#, "succeeded");
    for n in 0..3 {
        fleet.write("data/file-1", &format!("{n}\n").repeat(90_000));
        run(r#"{"schedule_id":"data"}"#, "succeeded");
    }
    // It may not, by any way, and is told why.
    let refused = run(r#"{"kind":"forget","schedule_id":"data"}"#, "failed");
    let said = refused["error"].as_str().unwrap_or_default();
    assert!(said.contains("append-only") && said.contains("[maintenance]"), "{refused}");
    let snapshots = files(&fleet, "snapshots");
    assert_eq!(snapshots.len(), 3);
    assert_eq!(remove(adds, &format!("web-1:{}", OF_HOST.0), &snapshots[0]), "403");
    assert_eq!(remove(removes, &format!("web-1:{}", OF_HOST.0), &snapshots[0]), "401");
    assert_eq!(files(&fleet, "snapshots"), snapshots);
    assert_eq!(files(&fleet, "locks"), [""; 0].map(std::path::PathBuf::from), "its own locks it may remove");

    // The elected host may.
    elected::enroll(&fleet);
    let _elected = elected::start(&fleet, &newest);
    let forgot = elected::maintain(&fleet, "forget", false);
    assert_eq!(forgot[0]["stats"]["snapshots_removed"], 2, "{forgot:?}");
    assert_eq!(files(&fleet, "snapshots").len(), 1);
    let data = files(&fleet, "data");
    let refused = run(r#"{"kind":"prune","options":{"max_unused":"0"}}"#, "failed");
    assert!(refused["error"].as_str().is_some_and(|said| said.contains("append-only")), "{refused}");
    assert!(data.iter().all(|pack| pack.exists()), "the host's prune removed data");
    elected::maintain(&fleet, "prune", false);
    assert!(data.iter().any(|pack| !pack.exists()), "nothing was pruned");

    // And the host goes on, which never had the other credential.
    run(r#"{"schedule_id":"data"}"#, "succeeded");
    run(r#"{"kind":"check","options":{"read_data":true}}"#, "succeeded");
    for file in ["agent/settings.json", "agent.log", "elected.log", "server.log"] {
        assert!(!fleet.read(file).contains(OF_ADMIN.0), "{file}");
    }
    assert!(fleet.read("agent/settings.json").contains(PASSWORD));
}
