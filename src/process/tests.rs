use std::time::Instant;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Program {
    Program {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
        directory: None,
    }
}

/// All output of a script up to and with its exit.
async fn all(script: &str) -> Vec<Output> {
    let (_running, mut receiver) = start(&shell(script)).expect("it starts");
    let mut output = Vec::new();
    let end = async {
        while let Some(one) = receiver.recv().await {
            output.push(one);
        }
    };
    tokio::time::timeout(SOON, end).await.expect("it ends soon");
    output
}

fn lines(output: &[Output], kind: fn(String) -> Output) -> Vec<&str> {
    let text = |one| match one {
        &Output::Stdout(ref text) | &Output::Stderr(ref text) if *one == kind(text.clone()) => Some(text.as_str()),
        _ => None,
    };
    output.iter().filter_map(text).collect()
}

async fn assert_gone(pid: &str) {
    let start = Instant::now();
    // A killed orphan may stay a zombie for as long as its new parent likes.
    let is_alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !matches!(stat.rsplit(')').next().and_then(|rest| rest.trim().chars().next()), None | Some('Z' | 'X'))
    };
    while is_alive() {
        assert!(start.elapsed() < SOON, "{pid} is still alive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn both_streams_come_line_by_line_and_the_exit_last() {
    let output = all(r"printf 'one\ntwo\r\n\377\nlast'; echo problem >&2; exit 3").await;
    assert_eq!(lines(&output, Output::Stdout), ["one", "two", "\u{fffd}", "last"]);
    assert_eq!(lines(&output, Output::Stderr), ["problem"]);
    assert_eq!(output.last(), Some(&Output::Exit(Exit::Code(3))));
    assert_eq!(output.iter().filter(|one| matches!(one, Output::Exit(_))).count(), 1);
}

#[tokio::test]
async fn output_larger_than_the_pipes_is_read_on_both_streams() {
    let count = 40_000;
    let output =
        all(&format!("i=0; while [ $i -lt {count} ]; do echo out-$i-xxxxxxxx; echo err-$i >&2; i=$((i+1)); done"))
            .await;
    assert_eq!(lines(&output, Output::Stdout).len(), count);
    assert_eq!(lines(&output, Output::Stderr).last(), Some(&"err-39999"));
    assert_eq!(output.last(), Some(&Output::Exit(Exit::Code(0))));
}

#[tokio::test]
async fn a_program_ends_by_itself_when_nobody_listens() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display();
    let (_running, receiver) =
        start(&shell(&format!("head -c 1000000 /dev/zero && echo done > {path}"))).expect("starts");
    drop(receiver);
    let start = Instant::now();
    while std::fs::read_to_string(file.path()).expect("read").is_empty() {
        assert!(start.elapsed() < SOON, "it is blocked, or died of its closed pipe");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_slow_receiver_loses_nothing() {
    let (_running, mut receiver) = start(&shell("seq 1 5000")).expect("it starts");
    // Longer than output may come after the exit: what waits here must not count as late.
    tokio::time::sleep(AFTER_EXIT + Duration::from_millis(500)).await;
    let mut count = 0;
    while let Some(Output::Stdout(_)) = receiver.recv().await {
        count += 1;
    }
    assert_eq!(count, 5000);
}

#[tokio::test]
async fn a_long_line_is_whole_and_a_monstrous_one_is_cut_and_says_so() {
    let long = 300 * 1024;
    let monstrous = LINE_LIMIT_BYTES + 1234;
    let zeros = |count| format!("head -c {count} /dev/zero | tr '\\0' a; echo");
    let output = all(&format!("{}; {}; echo after", zeros(long), zeros(monstrous))).await;
    let lines = lines(&output, Output::Stdout);
    assert_eq!(lines[0].len(), long);
    assert!(lines[1].ends_with("a [1234 more bytes of this line were dropped]"));
    assert_eq!(lines[1].find(' '), Some(LINE_LIMIT_BYTES));
    assert_eq!(lines[2], "after");
}

#[tokio::test]
async fn interrupt_is_sigint_to_the_whole_group() {
    let child = "trap \"echo child; exit 0\" INT; echo ready; while :; do sleep 0.05; done";
    let script = format!("trap 'echo parent; exit 130' INT; sh -c '{child}'; exit 9");
    let (running, mut receiver) = start(&shell(&script)).expect("it starts");
    assert_eq!(receiver.recv().await, Some(Output::Stdout("ready".into())));
    assert!(running.interrupt());
    let mut rest = Vec::new();
    while let Some(one) = receiver.recv().await {
        rest.push(one);
    }
    assert_eq!(lines(&rest, Output::Stdout), ["child", "parent"]);
    assert_eq!(rest.last(), Some(&Output::Exit(Exit::Code(130))));
    assert!(!running.interrupt(), "it has ended");
}

#[tokio::test]
async fn kill_tree_and_drop_kill_grandchildren_too() {
    for by_drop in [false, true] {
        let (running, mut receiver) = start(&shell("sleep 1000 & echo $!; wait")).expect("it starts");
        let first: Vec<_> = receiver.recv().await.into_iter().collect();
        let grandchild = lines(&first, Output::Stdout)[0];
        let pid = running.pid().to_string();
        let kept = if by_drop {
            drop(running);
            None
        } else {
            running.kill_tree();
            Some(running)
        };
        assert_gone(grandchild).await;
        assert_gone(&pid).await;
        assert_eq!(receiver.recv().await, Some(Output::Exit(Exit::Signal(9))));
        drop(kept);
    }
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_delays_the_exit_only_briefly_and_dies() {
    let start = Instant::now();
    let output = all("sleep 1000 & echo $!").await;
    assert_eq!(output.last(), Some(&Output::Exit(Exit::Code(0))));
    assert!(start.elapsed() < AFTER_EXIT * 3, "{:?}", start.elapsed());
    assert_gone(lines(&output, Output::Stdout)[0]).await;
}

#[tokio::test]
async fn a_process_that_escaped_from_the_group_and_holds_the_pipe_cannot_delay_the_exit_for_ever() {
    let output = all("setsid sh -c 'echo $$; echo out-of-it; exec sleep 30' & wait_for=$!; sleep 0.3; exit 4").await;
    assert_eq!(output.last(), Some(&Output::Exit(Exit::Code(4))));
    let lines = lines(&output, Output::Stdout);
    assert_eq!(lines[1], "out-of-it");
    // Ours to tidy up: nothing else knows it.
    let pid = lines[0].parse().ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it was alive");
}

#[tokio::test]
async fn the_environment_is_exactly_the_one_given_and_standard_input_is_empty() {
    let mut program = shell("/bin/cat; exec /usr/bin/env");
    program.environment = vec![("RESTIC_PASSWORD".into(), "secret-value".into())];
    let captured = run_to_end(&program, SOON).await.expect("it runs");
    assert_eq!(captured.exit, Exit::Code(0), "{captured:?}");
    let names: Vec<_> = captured.stdout.lines().filter_map(|line| line.split('=').next()).collect();
    // PWD, SHLVL, _ are the shell's own.
    assert!(names.iter().all(|name| ["RESTIC_PASSWORD", "PWD", "SHLVL", "_", "OLDPWD"].contains(name)), "{names:?}");
    let shown = format!("{program:?}");
    assert!(shown.contains("RESTIC_PASSWORD") && !shown.contains("secret-value"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let mut program = shell("true");
    program.program = "no-such-program".into();
    let error = start(&program).expect_err("missing");
    assert!(matches!(error, StartError::NotFound { .. }));
    assert_eq!(error.to_string(), "there is no program no-such-program");
    program.program = "/etc/passwd".into();
    let error = start(&program).expect_err("not executable");
    assert!(crate::file_error::chain(&error).starts_with("cannot start /etc/passwd: Permission denied"), "{error}");
    let mut program = shell("true");
    program.directory = Some("/no/such/directory".into());
    assert_eq!(start(&program).expect_err("nowhere").to_string(), "there is no directory /no/such/directory to run in");
}

#[tokio::test]
async fn a_program_past_its_deadline_is_killed_with_its_children() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let program = shell(&format!("sleep 1000 & echo $! > {}; wait", file.path().display()));
    let error = run_to_end(&program, Duration::from_secs(1)).await.expect_err("too slow");
    assert_eq!(error.to_string(), "/bin/sh had not ended after 1 s and was killed");
    assert_gone(std::fs::read_to_string(file.path()).expect("a pid").trim()).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_program_and_its_children_read_and_compute_is_counted_while_they_run() {
    let (running, mut receiver) = start(&shell("head -c 3000000 /dev/zero | wc -c; sleep 60")).expect("it starts");
    let printed = tokio::time::timeout(SOON, receiver.recv()).await.expect("it prints soon");
    assert_eq!(printed, Some(Output::Stdout("3000000".to_owned())));
    let counted = activity(running.pid()).expect("it runs");
    assert!((3_000_000..20_000_000).contains(&counted.bytes), "{counted:?}");
    assert!(counted.processor < SOON, "{counted:?}");
    drop(running);
    assert_eq!(activity(u32::MAX - 1), None, "there is no such group");
}
