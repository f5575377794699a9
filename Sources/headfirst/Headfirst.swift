// The command. It reads what the user asked for, hands the configuration to the runtime and turns every way this can
// end into an exit code.

import ArgumentParser
import Glibc
import ProxyRuntime

@main
struct Headfirst: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "headfirst",
        abstract: "A reverse proxy that never sits on a response head.",
        discussion: """
            The moment an upstream's status line and fields are parsed they are on the wire to the client; the content \
            follows as it comes. It is made to stand in front of slow backends: event streams, long reports, language \
            models.

            EXAMPLES:
              headfirst demo                      See it at work.
              headfirst check proxy.conf          Every mistake, with line and column.
              headfirst run --config proxy.conf   Serve.
              headfirst explain --config proxy.conf GET http://localhost:8080/
                                                  What would become of this request.
              headfirst health                    Whether the running one lives, for probes.

            SIGNALS:
              SIGTERM, SIGINT,  Stop when running exchanges have ended, at the latest
              SIGQUIT           after shutdown_grace. A second one stops at once.
              SIGHUP            Read the configuration again, bring it into force if it
                                can be used, and open logs again. What runs, runs on.
              SIGUSR1           Open logs again, for rotation.

            EXIT CODES:
              0    All went well, or a signal asked to stop.
              64   The command line is wrong.
              71   The operating system refused something: an address in use, say.
              78   The configuration is wrong or missing.
            """,
        version: Proxy.version,
        subcommands: [Run.self, Check.self, Explain.self, Health.self, Demo.self])

    static func main() {
        // A reader of our output that is gone, or a peer behind splice, is an error of a call and no reason to die.
        signal(SIGPIPE, SIG_IGN)
        main(nil)
    }
}

/// How the command ends when it does not end well (sysexits.h).
enum Exit {
    /// EX_OSERR
    static let operatingSystem = ExitCode(71)
    /// EX_CONFIG
    static let configuration = ExitCode(78)
}
