//! Which directories a server takes for its data: its own and empty ones, each for itself alone. It refuses all
//! others with a word on why, and leaves them as they were.

use std::path::Path;

use tidewire_conformance::durable::body::Body;
use tidewire_conformance::durable::history::read_all;
use tidewire_conformance::durable::publish::{PATIENCE, post};
use tidewire_conformance::http;
use tidewire_conformance::launch::Launch;
use tidewire_conformance::scratch::{self, Scratch};
use tidewire_conformance::server::Server;

type Outcome = Result<(), String>;

fn publish(server: &Server, number: usize) -> Result<String, String> {
    post(&http::agent(PATIENCE), &server.url, "kept", &Body::json(0, number, ""), None)?.fresh()
}

/// The refusal must name the directory, and say one of these.
fn refused(directory: &Path, words: &[&str]) -> Outcome {
    let log = Launch::on(directory).refuse()?;
    let lower = log.to_lowercase();
    if !log.contains(&*directory.to_string_lossy()) || !words.iter().any(|word| lower.contains(word)) {
        return Err(format!("expected {} and one of {words:?} in {log:?}", directory.display()));
    }
    Ok(())
}

/// Every file with its bytes.
fn contents(directory: &Path) -> Result<Vec<(std::path::PathBuf, Vec<u8>)>, String> {
    let files = scratch::files(directory)?;
    files.into_iter().map(|file| Ok((file.clone(), scratch::read(&directory.join(file))?))).collect()
}

#[test]
fn two_servers_do_not_share_a_directory() -> Outcome {
    let scratch = Scratch::new("shared")?;
    let data = scratch.join("data");
    let mut first = Launch::on(&data).serve()?;
    publish(&first, 1)?;
    refused(&data, &["in use", "lock", "another", "already"])?;
    publish(&first, 2)?;
    // A dead server holds nothing.
    first.kill();
    let second = Launch::on(&data).serve()?;
    publish(&second, 3)?;
    match read_all(&second.url, "kept")?.len() {
        3 => Ok(()),
        other => Err(format!("{other} events of 3")),
    }
}

#[test]
fn of_servers_that_start_at_once_one_serves() -> Outcome {
    let scratch = Scratch::new("race")?;
    for round in 0..5 {
        let data = scratch.join(&format!("data{round}"));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let launch = Launch::on(&data);
                std::thread::spawn(move || launch.run())
            })
            .collect();
        let mut serving = Vec::new();
        for thread in threads {
            match thread.join().map_err(|_| "a thread panicked")?? {
                tidewire_conformance::launch::Launched::Serving(server) => serving.push(server),
                tidewire_conformance::launch::Launched::Ended(ended) if ended.status.code() == Some(1) => {}
                other => return Err(format!("expected a refusal, got {other:?}")),
            }
        }
        match &serving[..] {
            [server] => publish(server, 1).map(drop)?,
            other => return Err(format!("{} servers serve at once", other.len())),
        }
    }
    Ok(())
}

#[test]
fn a_file_is_no_directory() -> Outcome {
    let scratch = Scratch::new("file")?;
    let file = scratch.join("data");
    scratch::write(&file, "mine")?;
    refused(&file, &["directory"])?;
    if scratch::read(&file)? != b"mine" {
        return Err("the file was changed".to_owned());
    }
    Ok(())
}

#[test]
fn what_belongs_to_something_else_is_left_alone() -> Outcome {
    let scratch = Scratch::new("foreign")?;
    for (number, name) in ["notes.txt", "sub/deeper.bin", ".hidden"].into_iter().enumerate() {
        let data = scratch.join(&format!("data{number}"));
        let file = data.join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(&data)).map_err(|error| error.to_string())?;
        scratch::write(&file, "mine")?;
        let before = contents(&data)?;
        refused(&data, &["not empty", "belong", "tidewire", "other", "else"])?;
        if contents(&data)? != before {
            return Err(format!("{name} or its directory was changed: {:?}", scratch::files(&data)?));
        }
    }
    Ok(())
}

#[test]
fn an_empty_directory_and_one_that_is_not_there_are_taken() -> Outcome {
    let scratch = Scratch::new("empty")?;
    let (empty, absent) = (scratch.join("empty"), scratch.join("absent"));
    std::fs::create_dir(&empty).map_err(|error| error.to_string())?;
    for data in [&empty, &absent] {
        let mut server = Launch::on(data).serve()?;
        publish(&server, 1)?;
        server.stop()?;
        if scratch::files(data)?.is_empty() {
            return Err(format!("nothing is stored in {}", data.display()));
        }
    }
    Ok(())
}

#[test]
fn without_a_word_the_log_is_in_tidewire_data() -> Outcome {
    let scratch = Scratch::new("default")?;
    let place = scratch.join("");
    let mut server = Launch::below(&place).serve()?;
    let id = publish(&server, 1)?;
    server.kill();
    let server = Launch::on(&place.join("tidewire-data")).serve()?;
    match &read_all(&server.url, "kept")?[..] {
        [logged] if logged.id == id => Ok(()),
        other => Err(format!("expected {id}, got {other:?}")),
    }
}

#[test]
fn a_directory_of_another_version_is_refused_and_left_alone() -> Outcome {
    let scratch = Scratch::new("version")?;
    let data = scratch.join("data");
    let mut server = Launch::on(&data).serve()?;
    let id = publish(&server, 1)?;
    server.stop()?;
    let file = data.join("tidewire.version");
    let now = scratch::read(&file)?;
    for other in [higher(&now)?, b"one\n".to_vec(), Vec::new()] {
        scratch::write(&file, &other)?;
        let before = contents(&data)?;
        refused(&data, &["version"])?;
        if contents(&data)? != before {
            return Err("the directory was changed".to_owned());
        }
    }
    scratch::write(&file, now)?;
    let server = Launch::on(&data).serve()?;
    match &read_all(&server.url, "kept")?[..] {
        [logged] if logged.id == id => Ok(()),
        other => Err(format!("expected {id}, got {other:?}")),
    }
}

/// The same text with its first number one higher.
fn higher(version: &[u8]) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(version).map_err(|error| error.to_string())?;
    let start = text.find(|c: char| c.is_ascii_digit()).ok_or_else(|| format!("no number in {text:?}"))?;
    let digits = text[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - start);
    let number: u64 = text[start..start + digits].parse().map_err(|_| format!("{text:?}"))?;
    Ok(format!("{}{}{}", &text[..start], number + 1, &text[start + digits..]).into_bytes())
}
