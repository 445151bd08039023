//! Scratch directories on a real disk, and fleets in them: configuration, certificates, and what is kept between runs.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::Outcome;
use crate::agents::host_name;

/// Of every repository.
pub(crate) const PASSWORD: &str = "a password of the benchmark";

fn failed<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> String + 'a {
    move |error| format!("cannot {what} {}: {error}", path.display())
}

pub(crate) fn make_dir(path: &Path) -> Outcome<()> {
    fs::create_dir_all(path).map_err(failed("make", path))
}

pub(crate) fn write(path: &Path, text: &str) -> Outcome<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    fs::write(path, text).map_err(failed("write", path))
}

pub(crate) fn remove(path: &Path) -> Outcome<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Copies a directory with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) -> Outcome<()> {
    restic_manager::atomic_file::create_private_dir(to).map_err(|error| error.to_string())?;
    for entry in fs::read_dir(from).map_err(failed("list", from))? {
        let entry = entry.map_err(failed("list", from))?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).map_err(failed("copy", &entry.path()))?;
        }
    }
    Ok(())
}

/// Removes scratch directories whose benchmark was killed. One that runs keeps its own.
pub(crate) fn remove_what_others_left(dir: &Path) -> Outcome<()> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix("scratch-").is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// A memory file system would make fdatasync free.
pub(crate) fn must_be_a_disk(path: &Path) -> Outcome<()> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let path = path.canonicalize().map_err(failed("find", path))?;
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?))
        })
        .filter(|(at, _)| path.starts_with(at))
        .max_by_key(|(at, _)| at.len());
    match mount {
        Some((at, kind @ ("tmpfs" | "ramfs"))) => Err(format!(
            "{} is on {kind} ({at}), where fdatasync does nothing: name a directory on a disk with --dir",
            path.display()
        )),
        _ => Ok(()),
    }
}

/// The group's schedule at this time.
pub(crate) fn group(minute: usize) -> String {
    format!(
        "timezone = \"Europe/London\"\n\n[[schedule]]\nid = \"system\"\nkind = \"backup\"\ncron = \"{} 2 * * *\"\nsplay = \"30m\"\npaths = [\"/etc\", \"/home\", \"/var/lib\"]\nexcludes = [\"*.tmp\", \"/var/lib/docker\"]\nretention = {{ keep_daily = 7, keep_weekly = 5, keep_monthly = 12 }}\n",
        minute % 60
    )
}

/// A host's file; the number of its edit makes each one new.
pub(crate) fn host(edit: usize) -> String {
    format!(
        "groups = [\"linux\"]\nrepository = \"main\"\n\n[[schedule]]\nid = \"postgres\"\nkind = \"backup\"\ncron = \"{} * * * *\"\npaths = [\"/var/backups/postgres\"]\noptions = {{ one_file_system = true }}\n",
        edit % 60
    )
}

pub(crate) fn host_file(fleet: &Path, index: usize) -> PathBuf {
    fleet.join("config/hosts").join(format!("{}.toml", host_name(index)))
}

/// Writes `config` for so many hosts, and certificates beside it; returns the authority's.
pub(crate) fn make_fleet(fleet: &Path, hosts: usize) -> Outcome<PathBuf> {
    write(&fleet.join("secrets/password"), PASSWORD)?;
    settings(fleet, false)?;
    write(
        &fleet.join("config/repositories/main.toml"),
        "url = \"rest:https://backup.example.org/{host}/\"\nusername = \"{host}\"\npassword = { file = \"../secrets/password\" }\ncredential = { file = \"../secrets/password\" }\n",
    )?;
    write(&fleet.join("config/groups/linux.toml"), &group(0))?;
    let text = host(0);
    make_dir(&fleet.join("config/hosts"))?;
    for index in 0..hosts {
        write(&host_file(fleet, index), &text)?;
    }
    certificates(fleet)
}

/// Writes server.toml, for a server that is not running.
pub(crate) fn settings(fleet: &Path, tls: bool) -> Outcome<()> {
    let tls = if tls { "[tls]\ncert = \"../tls/tls.crt\"\nkey = \"../tls/tls.key\"\n" } else { "" };
    write(&fleet.join("config/server.toml"), &format!("secret_roots = [\"../secrets\"]\n{tls}"))
}

fn certificates(fleet: &Path) -> Outcome<PathBuf> {
    let made = || -> Result<(String, String, String), rcgen::Error> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(rcgen::DnType::CommonName, "the benchmark's authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
        Ok((authority.pem(), leaf.pem(), key.serialize_pem()))
    };
    let (authority, certificate, key) = made().map_err(|error| format!("no certificate: {error}"))?;
    write(&fleet.join("ca.pem"), &authority)?;
    write(&fleet.join("tls/tls.crt"), &certificate)?;
    write(&fleet.join("tls/tls.key"), &key)?;
    Ok(fleet.join("ca.pem"))
}

/// The admin token that the server made.
pub(crate) fn admin_token(fleet: &Path) -> Outcome<String> {
    let path = fleet.join("state/admin-token");
    fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(failed("read", &path))
}
