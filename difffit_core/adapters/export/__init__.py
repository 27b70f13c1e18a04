"""Write an adapter as something that stock libraries load: a whole merged model, or a PEFT folder."""
