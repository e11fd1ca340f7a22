import java.io.*;
import java.net.*;
import java.net.http.*;

/** Fetches an address with both clients that Java comes with. */
public class Fetch {
    public static void main(String[] args) throws Exception {
        var old = (HttpURLConnection) new URL(args[0]).openConnection();
        var stream = old.getResponseCode() < 400 ? old.getInputStream() : old.getErrorStream();
        System.out.println("old " + new String(stream.readAllBytes()));
        var request = HttpRequest.newBuilder(URI.create(args[0])).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println("new " + answer.version() + " " + answer.body());
    }
}
