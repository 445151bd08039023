//! nginx with nchan, where both are installed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::shown;
use crate::processes::{Process, free_port, signal};
use crate::table::Reference;
use crate::{Bench, Outcome, fleet_files};

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub(super) struct Nchan {
    _master: Process,
    pub(super) worker: u32,
    pub(super) port: u16,
}

impl Nchan {
    /// The error says what is missing.
    pub(super) fn start(bench: &Bench, tls: bool) -> Result<Self, String> {
        if bench.quick {
            return Err("nchan: not with --quick".to_owned());
        }
        let nginx = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists());
        let (Some(nginx), true) = (nginx, Path::new(MODULE).exists()) else {
            return Err("nchan is not installed: apt-get install nginx libnginx-mod-nchan".to_owned());
        };
        let dir = bench.new_dir("nchan")?;
        let port = free_port()?;
        let certificates = bench.fleet()?.dir.join("tls");
        let ssl = if tls {
            format!("ssl_certificate {0}/tls.crt; ssl_certificate_key {0}/tls.key;", shown(&certificates))
        } else {
            String::new()
        };
        let text = format!(
            "load_module {MODULE};
             daemon off; worker_processes 1; worker_rlimit_nofile 19000; pid {dir}/pid; error_log {dir}/error.log;
             events {{ worker_connections 18000; }}
             http {{
               access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f;
               uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; keepalive_timeout 400; nchan_max_reserved_memory 512M;
               server {{
                 listen 127.0.0.1:{port}{listen}; {ssl}
                 location ~ ^/park/([0-9]+)$ {{ nchan_subscriber longpoll; nchan_channel_id $1;
                   nchan_subscriber_first_message newest; nchan_subscriber_timeout 300; }}
                 location ~ ^/wake/([0-9]+)$ {{ nchan_publisher; nchan_channel_id $1; nchan_store_messages off; }}
               }}
             }}",
            dir = shown(&dir),
            listen = if tls { " ssl" } else { "" },
        );
        fleet_files::write(&dir.join("nginx.conf"), &text)?;
        let mut command = Command::new(nginx);
        command.args(["-p", &shown(&dir), "-c", &shown(&dir.join("nginx.conf"))]);
        let master = Process::start(&mut command, &dir.join("log"))?;
        let worker = wait_for_worker(master.id(), port).ok_or_else(|| {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            format!("nginx did not start: {}", log.lines().last().unwrap_or_default())
        })?;
        Ok(Self { _master: master, worker, port })
    }
}

impl Drop for Nchan {
    /// The worker too: it outlives a master that is killed.
    fn drop(&mut self) {
        signal(self.worker, "KILL");
    }
}

fn wait_for_worker(master: u32, port: u16) -> Option<u32> {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        let worker = children.split_whitespace().next().and_then(|id| id.parse().ok());
        if worker.is_some() && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return worker;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// The runs, or what was missing.
pub(super) fn reference(name: &str, runs: Outcome<Vec<f64>>) -> Reference {
    match runs {
        Ok(runs) => Reference::Runs(name.to_owned(), runs),
        Err(missing) => Reference::Missing(missing),
    }
}
