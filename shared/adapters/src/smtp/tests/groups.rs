//! Every answer to every command of a pipelined group.

use super::*;

/// What a server says to one command of a group: a reply, or nothing, since it hangs up there.
const WORDS: [Option<&str>; 6] = [
    Some("250 2.0.0 ok\r\n"),
    Some("550-5.1.1 no\r\n550 5.1.1 really\r\n"),
    Some("450 4.2.0 later\r\n"),
    Some("354 go ahead\r\n"),
    Some("421 4.3.2 closing\r\n"),
    None,
];

/// What a server that was given a group heard besides, and what the client made of it.
struct Heard {
    result: Result<Vec<RefusedCopy>, Failure>,
    in_step: bool,
    /// Messages that came whole, and dots on their own.
    messages: usize,
    dots: usize,
}

/// Hands a message with so many `copies` over to a server that pipelines, has these `words` to the commands up to
/// DATA, and takes every message that it is given. It says them as it gets the commands, at once or byte by byte.
async fn group(copies: usize, words: &[Option<&str>], byte_by_byte: bool) -> Heard {
    let copies = &["a@example.com", "b@example.com"][..copies];
    let message = message(copies, &[]);
    let (stream, mut server) = tokio::io::duplex(65_536);
    let server = async {
        let mut words = words.iter();
        let (mut messages, mut dots) = (0, 0);
        let mut heard = Vec::with_capacity(65_536);
        let mut in_message = false;
        while server.read_buf(&mut heard).await.unwrap() > 0 {
            let (mut said, mut hangs_up) = (String::new(), false);
            // Every write of the client ends with a line, and holds a message or commands.
            if in_message {
                if heard.ends_with(b"\r\n.\r\n") || heard == b".\r\n" {
                    messages += usize::from(heard != b".\r\n");
                    dots += usize::from(heard == b".\r\n");
                    said.push_str("250 2.0.0 ok\r\n");
                    in_message = false;
                    heard.clear();
                }
            } else {
                let commands = String::from_utf8(heard.clone()).unwrap();
                heard.clear();
                for command in commands.lines() {
                    let Some(word) = words.next().copied().flatten() else {
                        hangs_up = true;
                        break;
                    };
                    in_message = command == "DATA" && word.starts_with("354");
                    hangs_up = word.starts_with("421");
                    said.push_str(word);
                    if hangs_up {
                        break;
                    }
                }
            }
            let pieces = if byte_by_byte { 1 } else { said.len().max(1) };
            for piece in said.as_bytes().chunks(pieces) {
                // Who has given up hears nothing any more.
                let _ = server.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            if hangs_up {
                break;
            }
        }
        (messages, dots)
    };
    let client = async {
        let sender = sender();
        let mut draft = Draft::new(&message, &sender, Feedback::Named).unwrap();
        let submission = draft.for_server(&PIPELINING).unwrap();
        let mut wire = Wire::new(stream, 0);
        let deadline = Deadline::after(Duration::from_secs(20));
        let result = send_transaction(&mut wire, &PIPELINING, &submission, START, deadline).await;
        (result, wire.is_in_step())
    };
    let ((result, in_step), (messages, dots)) = tokio::join!(client, server);
    Heard {
        result,
        in_step,
        messages,
        dots,
    }
}

/// Every answer to every command of a group: a message leaves when its sender, its recipient and DATA were taken
/// and each copy was answered, and never else. To whom it goes is what the server took before.
#[tokio::test(start_paused = true)]
async fn no_answer_to_a_group_makes_a_message_leave_that_its_recipient_does_not_get() {
    for copies in [0_u32, 1] {
        let commands = 3 + copies;
        for number in 0..WORDS.len().pow(commands) {
            let words: Vec<_> = (0..commands)
                .map(|at| WORDS[number / WORDS.len().pow(at) % WORDS.len()])
                .collect();
            let code = |at: usize| words[at].map_or(0, |word| word[..3].parse().unwrap());
            let data = usize::try_from(copies).unwrap() + 2;
            // What is said behind a last word never comes.
            let is_taken = (0..data).all(|at| match at {
                0 | 1 => code(at) == 250,
                _ => matches!(code(at), 250 | 450 | 550),
            }) && code(data) == 354;
            for byte_by_byte in [false, true] {
                let copies = usize::try_from(copies).unwrap();
                let heard = group(copies, &words, byte_by_byte).await;
                assert_eq!(heard.messages, usize::from(is_taken), "{words:?}");
                match heard.result {
                    Ok(refused) => {
                        let answers = words[2..data].iter().flatten();
                        let refusals = answers.filter(|word| !word.starts_with("250")).count();
                        assert!(is_taken && heard.in_step, "{words:?}");
                        assert_eq!(refused.len(), refusals, "{words:?}");
                    }
                    Err(failure) => {
                        assert!(!is_taken, "{words:?}");
                        let disposition = classify(failure).disposition;
                        assert_ne!(disposition, Disposition::Ambiguous, "{words:?}");
                    }
                }
                // A dot ends what was asked for by a server that took nobody; who took somebody is left.
                let nobody = copies == 0 && code(0) != 0 && code(1) >= 400;
                assert!(heard.dots == 0 || nobody, "{words:?}");
            }
        }
    }
}
