import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** The JDK's own client with its defaults, which offers `Upgrade: h2c`: asks URL twice, with the headers NAME VALUE ... */
class Get {
    public static void main(String[] arguments) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(arguments[0]));
        for (int at = 1; at < arguments.length; at += 2) {
            request.header(arguments[at], arguments[at + 1]);
        }
        var client = HttpClient.newHttpClient();
        for (int turn = 0; turn < 2; turn++) {
            var answer = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.version() + " " + answer.statusCode());
        }
        System.exit(0);
    }
}
